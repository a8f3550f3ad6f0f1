"""What all experts share: they stand where one module stood, and run on slots.

Axes: g groups, t tokens, d width, E experts, s slots of an expert, h hidden width of an expert.
Tokens and slots are vectors (d,), or whatever shape the replaced module took.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.model.experts.replaced import Replaced, ReplacedMLP
from routers import (
    Configurable,
    GroupChoiceRouting,
    MergedRouting,
    Registry,
    RequestError,
    Routing,
)

EXPERTS = Registry("experts")
register_experts = EXPERTS.register


class Experts(nn.Module, Configurable):
    """The base of all experts.

    Subclasses write `forward`; or `activations` and `outputs`, so that gates can read what lies
    between; or `apply` where dispatching and combining are not enough.

    Attributes:
        replaces: the kinds of `Replaced` that they can stand in for.
        stacked: whether every parameter is a stack of one for each expert, (E, …), so that experts
            can be averaged.
        width: the hyper-parameter by which an expert grows, unit by unit, and by which compute is
            matched; None where there is none.
        hidden_width: h; None where they have no hidden activations to show.
        level_sizes: sizes of the expert modes; none where there is one mode.
        kinds: "mlp", "constant", "copy" or "zero" of each expert; none where all are alike.
        expert_sizes: parameters of each expert; none where all are alike.
        adapted: the frozen layer that they adapt, whose output is part of theirs; None for none.
        mixes_tokens: whether a token's output depends on the other tokens of its group.
    """

    name: ClassVar[str]
    replaces: ClassVar[tuple[type, ...]] = (ReplacedMLP,)
    stacked: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = False
    width: ClassVar[str | None] = None

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        super().__init__()
        self.num_experts, self.replaced = num_experts, replaced
        self.set_hyper(hyper)
        self.hidden_width: int | None = None
        self.level_sizes: tuple[int, ...] = ()
        self.kinds: tuple[str, ...] = ()
        self.expert_sizes: tuple[int, ...] = ()
        self.adapted: nn.Module | None = None

    def forward(self, slot_inputs: Tensor) -> Tensor:
        """Apply every expert to its own slots: (E, g, s, …) -> (E, g, s, …)."""
        return self.outputs(self.activations(slot_inputs))

    def activations(self, slot_inputs: Tensor) -> Tensor:
        """Compute each expert's last hidden layer: (E, g, s, …) -> (E, g, s, h)."""
        raise TypeError(f"experts {self.name!r} define neither forward nor activations")

    def outputs(self, activations: Tensor) -> Tensor:
        """Compute the outputs from the hidden activations: (E, g, s, h) -> (E, g, s, …)."""
        raise TypeError(f"experts {self.name!r} define no outputs(activations)")

    def apply(self, routing: Routing, x: Tensor) -> Tensor:  # type: ignore[override]
        """Dispatch tokens, run the experts, combine their outputs: (g, t, …) -> (g, t, …)."""
        if isinstance(routing, MergedRouting):
            shares = routing.merge_weights
            return self.by_group(
                lambda stack: torch.einsum("ge,e...->g...", shares.to(stack.dtype), stack), x
            )
        if isinstance(routing, GroupChoiceRouting):
            y = self.by_group(lambda stack: stack[routing.group_experts], x)
            return routing.weights.to(y.dtype) * y
        return self.by_slot(routing, x)

    def by_slot(self, routing: Routing, x: Tensor) -> Tensor:
        """Run the experts on the slots of a routing: (g, t, …) -> (g, t, …)."""
        return routing.combine(self(routing.dispatch(x)))

    def by_group(self, own: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Run each group through an expert of its own, made of all experts' parameters.

        Args:
            own: makes of a stack of parameters, (E, …), that of each group, (g, …): their mean
                (2306.03745), or one of them.
            x: (g, t, …).

        Raises:
            RequestError: these experts share parameters, or have factors of them.
        """
        if not self.stacked:
            raise RequestError(
                f"experts {self.name!r} have no weights of their own to average or to take; use "
                "experts.name = mlp or linear with this router"
            )
        made = {name: own(parameter) for name, parameter in self.named_parameters()}
        # The groups stand where the experts stood: one expert for each.
        y: Tensor = torch.func.functional_call(self, made, (x.unsqueeze(1),))
        return y.squeeze(1)

    def slots(self, routing: Routing) -> int:
        """Return the slots that the experts run, used or not."""
        return routing.slot_count

    def sizes(self, routing: Routing) -> tuple[int, ...]:
        """Return numbers that the routing decides, in which the FLOPs of `apply` are affine."""
        tokens = routing.gates.shape[:2].numel()
        return tokens * (routing.choices or 0), self.slots(routing)

    def rows(self, routing: Routing) -> int:
        """Return the rows on which the replaced module runs the same FLOPs."""
        return self.slots(routing)

    def active_share(self, routing: Routing) -> float:
        """Share of their parameters that act on a token on average."""
        tokens = len(routing.real(routing.gates))
        return min(1.0, self.slots(routing) / (tokens * routing.num_experts))

    def stats(self) -> dict[str, float]:
        """Return single numbers that describe the experts, by name."""
        return {}


def build_experts(name: str, *, num_experts: int, replaced: Replaced, **hyper: Any) -> Experts:
    """Build registered experts by name.

    Raises:
        RequestError: there are none such, they have no such hyper-parameter, or cannot stand in.
    """
    target = EXPERTS.get(name).target
    if not isinstance(replaced, target.replaces):
        fitting = [e.name for e in EXPERTS.entries() if isinstance(replaced, e.target.replaces)]
        raise RequestError(
            f"experts {name!r} cannot replace {replaced.what}; {', '.join(fitting)} can"
        )
    experts: Experts = target(num_experts, replaced, **hyper)
    return experts
