"""The base class of experts, which replace one module and run on slots.

Axes: g groups, t tokens, d width, E experts, s slots of an expert, h hidden width of an expert.
Tokens and slots are vectors (d,), or of whatever shape the replaced module takes.
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
    """The base class of all experts.

    Subclasses define `forward`; or `activations` and `outputs`, so that gates can read the hidden
    activations; or `apply` if dispatching and combining are not enough.

    Attributes:
        replaces: the kinds of `Replaced` that they can replace.
        stacked: whether every parameter stacks one per expert, (E, …), so that experts can be
            averaged.
        width: the hyper-parameter that grows an expert in unit steps, by which compute is matched;
            None if there is none.
        hidden_width: h; None if they expose no hidden activations.
        level_sizes: sizes of the expert modes; empty if there is only one mode.
        kinds: "mlp", "constant", "copy" or "zero" for each expert; empty if all are alike.
        expert_sizes: parameters of each expert; empty if all are alike.
        adapted: the frozen layer that they adapt, whose output is part of theirs; None if none.
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
        """Compute outputs from hidden activations: (E, g, s, h) -> (E, g, s, …)."""
        raise TypeError(f"experts {self.name!r} define no outputs(activations)")

    def apply(self, routing: Routing, x: Tensor) -> Tensor:  # type: ignore[override]
        """Dispatch tokens, run the experts and combine their outputs: (g, t, …) -> (g, t, …)."""
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
        """Run each group through its own expert, made from all experts' parameters.

        Args:
            own: maps stacked parameters of experts, (E, …), to those of groups, (g, …): a weighted
                mean (2306.03745), or one expert's.
            x: (g, t, …).

        Raises:
            RequestError: the experts' parameters are shared or factorised.
        """
        if not self.stacked:
            raise RequestError(
                f"experts {self.name!r} have no weights of their own to average or to take; use "
                "experts.name = mlp or linear with this router"
            )
        made = {name: own(parameter) for name, parameter in self.named_parameters()}
        # The groups take the place of the experts: one expert for each.
        y: Tensor = torch.func.functional_call(self, made, (x.unsqueeze(1),))
        return y.squeeze(1)

    def slots(self, routing: Routing) -> int:
        """Return the number of slots that the experts run, used or not."""
        return routing.slot_count

    def sizes(self, routing: Routing) -> tuple[int, ...]:
        """Return the routing-dependent numbers in which the FLOPs of `apply` are affine."""
        tokens = routing.gates.shape[:2].numel()
        return tokens * (routing.choices or 0), self.slots(routing)

    def rows(self, routing: Routing) -> int:
        """Return the number of rows on which the replaced module would take the same FLOPs."""
        return self.slots(routing)

    def active_share(self, routing: Routing) -> float:
        """Return the share of the experts' parameters that act on a token on average."""
        tokens = len(routing.real(routing.gates))
        return min(1.0, self.slots(routing) / (tokens * routing.num_experts))

    def stats(self) -> dict[str, float]:
        """Return scalar statistics of the experts, by name."""
        return {}


def build_experts(name: str, *, num_experts: int, replaced: Replaced, **hyper: Any) -> Experts:
    """Build registered experts by name.

    Raises:
        RequestError: the name or a hyper-parameter is unknown, or they cannot replace the module.
    """
    target = EXPERTS.get(name).target
    if not isinstance(replaced, target.replaces):
        fitting = [e.name for e in EXPERTS.entries() if isinstance(replaced, e.target.replaces)]
        raise RequestError(
            f"experts {name!r} cannot replace {replaced.what}; {', '.join(fitting)} can"
        )
    experts: Experts = target(num_experts, replaced, **hyper)
    return experts
