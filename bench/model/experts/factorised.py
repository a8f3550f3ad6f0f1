"""Experts that share one weight tensor, which is given by factors and never formed.

    y = Σ_n a_n W_n x        W (E, i, o): every expert's matrix, of low rank together

Axes: t tokens, E experts (E_l of an expert mode, or level), i inputs, o outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from bench.model.experts.base import Experts
from bench.model.experts.classifier import uniform
from bench.model.experts.replaced import Replaced, ReplacedLinear, ReplacedMLP
from routers import MixtureRouting, RequestError, Routing, hyper, two_levels


@dataclass(frozen=True)
class Size:
    """A number of parameters that grows with a rank: `fixed` + rank · `per_rank`."""

    fixed: int = 0
    per_rank: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.fixed + other.fixed, self.per_rank + other.per_rank)

    def at(self, rank: int) -> int:
        """Count the parameters at a rank."""
        return self.fixed + rank * self.per_rank

    def nearest_rank(self, parameters: int) -> int:
        """Return the rank whose parameters come nearest to these; 0 where none from 1 on would."""
        return max(0, round((parameters - self.fixed) / self.per_rank))


class FactorisedLayer(nn.Module):
    """The base of layers with one weight tensor; subclasses add expert modes and join them.

    Input and output mode start as linear layers do, uniform in ±1 / √(what they sum over). The
    bias is the last row of the input mode.

    Args:
        inputs: i.
        joined: columns of the input mode.
        summed: what the output mode sums over.
        outputs: o.
        bias: whether the input mode has the row of the bias.
    """

    def __init__(self, inputs: int, joined: int, summed: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.input = uniform((joined, inputs), inputs)
        self.bias = uniform((joined, 1), inputs) if bias else None
        self.output = uniform((summed, outputs), summed)

    def forward(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """Compute Σ_n a_n W_n x: (t, i) -> (t, o).

        Args:
            gates: (E_l, t) of each expert mode, or one (E, t) of all experts.
        """
        raise TypeError(f"{type(self).__name__} defines no forward(x, gates)")

    def materialised(self) -> Tensor:
        """Form the weights W: (E, i, o), with a bias (E, i + 1, o)."""
        raise TypeError(f"{type(self).__name__} defines no materialised()")

    def by_input(self, x: Tensor) -> Tensor:
        """Multiply the input mode with the tokens, stored with the tokens last: (joined, t)."""
        if self.bias is None:
            return self.input @ x.t()
        return torch.addmm(self.bias, self.input, x.t())

    def input_mode(self) -> Tensor:
        """Return (joined, i), with a bias (joined, i + 1)."""
        return self.input if self.bias is None else torch.cat([self.input, self.bias], 1)


FURTHER_SPREAD = 0.1


class FactorisedExperts(Experts):
    """The base of `cp` and `tr`: their layers, the rank, and how a routing is applied.

    Two layers stand in for an MLP, with its activation between them, and weigh the experts alike;
    one layer stands in for a linear one. Subclasses write `build_layer` and `layer_size`.
    """

    replaces = (ReplacedMLP, ReplacedLinear)
    width = "rank"

    rank: int | None = hyper(
        None,
        "Of every layer; none gives experts and a linear gate the parameters of what they replace.",
        ge=1,
    )
    levels: Literal[1, 2] = hyper(1, "Expert modes; the product of two is E.")
    layers: Literal[1, 2] | None = hyper(None, "In the place of an MLP; none keeps its two.")

    replaced: ReplacedMLP | ReplacedLinear

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        super().__init__(num_experts, replaced, **hyper)
        if self.levels == 2:
            self.level_sizes = two_levels(num_experts)
        self.modes = self.level_sizes or (num_experts,)
        self.solved_rank = self.rank or self._matched_rank()
        self.blocks = nn.ModuleList(self.build_layer(*shape) for shape in self._layer_shapes())
        mlp = replaced if isinstance(replaced, ReplacedMLP) else None
        self.activation = mlp.activation() if mlp else nn.Identity()
        self.drop1, self.drop2 = (nn.Dropout(p) for p in (mlp.dropout if mlp else (0.0, 0.0)))

    def build_layer(self, inputs: int, outputs: int) -> FactorisedLayer:
        """Return one layer, of `modes` and `solved_rank`: (…, inputs) -> (…, outputs)."""
        raise TypeError(f"experts {self.name!r} define no build_layer(inputs, outputs)")

    def layer_size(self, modes: tuple[int, ...], inputs: int, outputs: int) -> Size:
        """Describe the parameters of a layer with expert modes of these sizes."""
        raise TypeError(f"experts {self.name!r} define no layer_size(modes, inputs, outputs)")

    def apply(self, routing: Routing, x: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the experts' mixture of each token: (g, t, i) -> (g, t, o)."""
        if not isinstance(routing, MixtureRouting):
            raise RequestError(
                f"experts {self.name!r} share one product, in which a token's choice of few of "
                "them saves nothing: use a router of the mixture family, as 'mumoe' or "
                "'softmax_mixture'"
            )
        rows = x.flatten(0, 1)
        gates = [level.movedim(2, 0).flatten(1).to(x.dtype) for level in self._gates(routing)]
        first, *second = self.blocks
        y: Tensor = first(rows, gates)
        for layer in second:
            y = layer(self.drop1(self.activation(y)), gates)
        dropped: Tensor = self.drop2(y)
        return dropped.unflatten(0, x.shape[:2])

    def rows(self, routing: Routing) -> int:
        """Return the rows with the same FLOPs; at the rank solved for, the tokens themselves."""
        tokens = routing.gates.shape[:2].numel()
        if self.rank is None:
            return tokens
        return max(1, round(tokens * (1 + self.stats()["parameter_error"])))

    def stats(self) -> dict[str, float]:
        """Return `expert_rank`, and `parameter_error`, relative, with a linear gate."""
        parameters = self._size(self.modes).at(self.solved_rank)
        error = parameters / self.replaced.parameters - 1
        return {"expert_rank": self.solved_rank, "parameter_error": error}

    def materialised(self) -> list[Tensor]:
        """Return the weight tensor of each layer: (E, i, o), with a bias (E, i + 1, o)."""
        return [cast(FactorisedLayer, layer).materialised() for layer in self.blocks]

    def _gates(self, routing: MixtureRouting) -> tuple[Tensor, ...]:
        """Return the gates of each expert mode, or of all experts where they do not split."""
        levels = routing.levels or ()
        alike = tuple(level.shape[-1] for level in levels) == self.modes
        return levels if alike else (routing.weights,)

    def _layer_shapes(self) -> list[tuple[int, int]]:
        """Return the inputs and outputs of each layer."""
        replaced = self.replaced
        if isinstance(replaced, ReplacedLinear):
            if self.layers == 2:
                raise RequestError(
                    f"experts {self.name!r}: layers = 2 needs a hidden width, and a linear layer "
                    "has none; leave `layers` out"
                )
            return [(replaced.dim, replaced.outputs)]
        hidden = [] if self.layers == 1 else [replaced.hidden]
        return list(pairwise([replaced.dim, *hidden, replaced.dim]))

    def _size(self, modes: tuple[int, ...]) -> Size:
        """Describe the parameters, with a linear gate, for expert modes of these sizes."""
        layers = (self.layer_size(modes, *shape) for shape in self._layer_shapes())
        return sum(layers, start=Size(self.replaced.dim * sum(modes)))

    def _rank_for(self, modes: tuple[int, ...]) -> int:
        """Return the rank that matches the parameters of what is replaced; 0 where none does."""
        return self._size(modes).nearest_rank(self.replaced.parameters)

    def _matched_rank(self) -> int:
        if rank := self._rank_for(self.modes):
            return rank
        replaced, gate = self.replaced, self.replaced.dim * sum(self.modes)
        fewer = (n for n in range(self.num_experts - 1, 0, -1) if self._fits(n, self.levels))
        ways = [f"num_experts = {n} or fewer does" for n in fewer][:1]
        if self.levels == 1 and self._fits(self.num_experts, 2):
            ways.append("levels = 2 does")
        raise RequestError(
            f"num_experts = {self.num_experts} of {self.name!r} does not fit into the "
            f"{replaced.parameters:,} parameters of {replaced.what}: a linear gate alone has "
            f"{gate:,}; " + ", or ".join([*ways, "set a `rank`"])
        )

    def _fits(self, num_experts: int, levels: int) -> bool:
        try:
            modes = (num_experts,) if levels == 1 else two_levels(num_experts)
        except RequestError:  # a prime
            return False
        return self._rank_for(modes) > 0


def spreads(modes: tuple[int, ...]) -> list[float]:
    """Return the deviations of the initial entries of each expert mode around 1.

    The authors' are 1, 0, 0, …: with gates that start at 0 nothing then tells the experts of a
    further mode apart, in value or in gradient, and training never does (64 experts of two levels
    stay 8). So further modes have a small one.
    """
    return [1.0, *[FURTHER_SPREAD] * (len(modes) - 1)]
