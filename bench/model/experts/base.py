"""What all experts share: they stand where one MLP stood, and run on slots.

Axes: g groups, t tokens, d width, E experts, s slots of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from routers import Configurable, Registry, RequestError, Routing

EXPERTS = Registry("experts")
register_experts = EXPERTS.register


@dataclass(frozen=True)
class ReplacedMLP:
    """The two-layer MLP that experts stand in for.

    Attributes:
        dim: input and output width d.
        hidden: hidden width.
        activation: its activation, a module class.
        bias: whether its layers have biases.
        std: standard deviations of the two layers' initial weights: experts start alike.
        dropout: probabilities after the activation and after the second layer.
    """

    dim: int
    hidden: int
    activation: type[nn.Module] = nn.GELU
    bias: bool = True
    std: tuple[float, float] = (0.02, 0.02)
    dropout: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, mlp: nn.Module) -> ReplacedMLP:
        """Read it off a timm MLP: `fc1`, an activation, `fc2`.

        Raises:
            RequestError: the module is built otherwise (gated, convolutional, normalised inside).
        """
        first, second = getattr(mlp, "fc1", None), getattr(mlp, "fc2", None)
        if (
            not isinstance(first, nn.Linear)
            or not isinstance(second, nn.Linear)
            or first.out_features != second.in_features
            or not isinstance(getattr(mlp, "norm", nn.Identity()), nn.Identity)
        ):
            raise RequestError(
                f"cannot replace a {type(mlp).__name__}: MoE layers replace MLPs of two linear "
                "layers with an activation between them"
            )
        if second.out_features != first.in_features:
            raise RequestError(
                f"cannot replace a {type(mlp).__name__} from width {first.in_features} to "
                f"{second.out_features}: experts keep the width"
            )
        std = cls.std
        if not first.weight.is_meta:
            std = (first.weight.std().item(), second.weight.std().item())
        return cls(
            dim=first.in_features,
            hidden=first.out_features,
            activation=type(mlp.get_submodule("act")),
            bias=first.bias is not None,
            std=std,
            dropout=(_probability(mlp, "drop1"), _probability(mlp, "drop2")),
        )


class Experts(nn.Module, Configurable):
    """Base of all experts: subclasses write `forward`, or `apply` where D and C are not enough.

    Args:
        num_experts: E.
        replaced: the MLP that they stand in for.
        hyper: hyper-parameters, by name.
    """

    def __init__(self, num_experts: int, replaced: ReplacedMLP, **hyper: Any) -> None:
        super().__init__()
        self.num_experts, self.replaced = num_experts, replaced
        self.set_hyper(hyper)

    def forward(self, slot_inputs: Tensor) -> Tensor:
        """Every expert on its own slots: (E, g, s, d) -> (E, g, s, d)."""
        raise TypeError(f"experts {type(self).__name__!r} define no forward(self, slot_inputs)")

    def apply(self, routing: Routing, x: Tensor) -> Tensor:  # type: ignore[override]
        """Dispatch, run, combine: (g, t, d) -> (g, t, d)."""
        return routing.combine(self(routing.dispatch(x)))


def build_experts(name: str, *, num_experts: int, replaced: ReplacedMLP, **hyper: Any) -> Experts:
    """Registered experts by name; `RequestError` where there are none of that name."""
    experts: Experts = EXPERTS.get(name).target(num_experts, replaced, **hyper)
    return experts


def _probability(mlp: nn.Module, name: str) -> float:
    drop = getattr(mlp, name, None)
    return float(drop.p) if isinstance(drop, nn.Dropout) else 0.0
