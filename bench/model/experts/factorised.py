"""Experts that share one weight tensor, which is stored as factors and never formed.

    y = Σ_n a_n W_n x        W (E, i, o): the matrices of all experts, jointly of low rank

Axes: t tokens, E experts (E_l in an expert mode, or level), i inputs, o outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.model.experts.base import Experts, register_experts
from bench.model.experts.replaced import Replaced, ReplacedLinear, ReplacedMLP
from bench.model.experts.stacked import uniform
from routers import MixtureRouting, RequestError, Routing, hyper, two_levels


class FactorisedExperts(Experts):
    """The base class of `cp` and `tr`: their layers, the rank, and how a routing is applied.

    Two layers replace an MLP, with its activation between them, and use the same gates; one layer
    replaces a linear layer.
    """

    replaces = (ReplacedMLP, ReplacedLinear)
    width = "rank"

    rank: int | None = hyper(
        None,
        "Rank of each layer; none matches, with a linear gate, the parameters of what is replaced.",
        ge=1,
    )
    levels: Literal[1, 2] = hyper(1, "Expert modes; the product of two is E.")
    layers: Literal[1, 2] | None = hyper(None, "Layers that replace an MLP; none keeps its two.")

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
        """Return one layer with `modes` and `solved_rank`: (…, inputs) -> (…, outputs)."""
        raise TypeError(f"experts {self.name!r} define no build_layer(inputs, outputs)")

    def layer_parameters(self, modes: tuple[int, ...], inputs: int, outputs: int, rank: int) -> int:
        """Count the parameters of a layer with expert modes of these sizes, linear in the rank."""
        raise TypeError(f"experts {self.name!r} define no layer_parameters(…)")

    def apply(self, routing: Routing, x: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the experts' mixture of each token: (g, t, i) -> (g, t, o)."""
        if not isinstance(routing, MixtureRouting):
            raise RequestError(
                f"experts {self.name!r} share one product, in which a token's choice of a few of "
                "them saves nothing: use a router of the mixture family, such as 'mumoe' or "
                "'softmax_mixture'"
            )
        levels = routing.levels or ()
        if tuple(level.shape[-1] for level in levels) != self.modes:
            levels = (routing.weights,)  # joint, since the gates have other modes
        gates = [level.movedim(2, 0).flatten(1).to(x.dtype) for level in levels]
        first, *second = self.blocks
        y: Tensor = first(x.flatten(0, 1), gates)
        for layer in second:
            y = layer(self.drop1(self.activation(y)), gates)
        dropped: Tensor = self.drop2(y)
        return dropped.unflatten(0, x.shape[:2])

    def rows(self, routing: Routing) -> int:
        """Return the number of rows with the same FLOPs; at the solved rank, that of the tokens."""
        tokens = routing.gates.shape[:2].numel()
        if self.rank is None:
            return tokens
        return max(1, round(tokens * (1 + self.stats()["parameter_error"])))

    def stats(self) -> dict[str, float]:
        """Return `expert_rank` and `parameter_error`, which is relative and includes a gate."""
        parameters = self._count_parameters(self.modes, self.solved_rank)
        error = parameters / self.replaced.parameters - 1
        return {"expert_rank": self.solved_rank, "parameter_error": error}

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

    def _count_parameters(self, modes: tuple[int, ...], rank: int) -> int:
        """Count all parameters, including a linear gate, for expert modes of these sizes."""
        layers = (self.layer_parameters(modes, *shape, rank) for shape in self._layer_shapes())
        return self.replaced.dim * sum(modes) + sum(layers)

    def _rank_for(self, num_experts: int, levels: int) -> int:
        """Return the rank that matches the replaced module's parameters; 0 if none does."""
        try:
            modes = (num_experts,) if levels == 1 else two_levels(num_experts)
        except RequestError:  # a prime
            return 0
        fixed = self._count_parameters(modes, 0)
        per_rank = self._count_parameters(modes, 1) - fixed
        return max(0, round((self.replaced.parameters - fixed) / per_rank))

    def _matched_rank(self) -> int:
        if rank := self._rank_for(self.num_experts, self.levels):
            return rank
        replaced, gate = self.replaced, self.replaced.dim * sum(self.modes)
        fewer = (n for n in range(self.num_experts - 1, 0, -1) if self._rank_for(n, self.levels))
        ways = [f"num_experts = {n} or fewer does" for n in fewer][:1]
        if self.levels == 1 and self._rank_for(self.num_experts, 2):
            ways.append("levels = 2 does")
        raise RequestError(
            f"num_experts = {self.num_experts} of {self.name!r} does not fit into the "
            f"{replaced.parameters:,} parameters of {replaced.what}: a linear gate alone has "
            f"{gate:,}; " + ", or ".join([*ways, "set a `rank`"])
        )


class FactorisedLayer(nn.Module):
    """The base class of layers with one weight tensor; subclasses add the expert modes.

    The input and output modes start like linear layers, uniform in ±1 / √(number of summands). The
    bias is the last row of the input mode. `forward` computes Σ_n a_n W_n x, (t, i) -> (t, o), from
    the tokens and the gates: (E_l, t) for each expert mode, or one (E, t) for all experts.

    Args:
        inputs: input width i.
        joined: number of columns of the input mode, over which the output mode sums.
        outputs: output width o.
        bias: whether the input mode has a row for the bias.
    """

    modes: nn.ParameterList
    join: ClassVar[Callable[[Tensor, Tensor], Tensor]]
    """Joins two expert modes into one, expert by expert."""

    def __init__(self, inputs: int, joined: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.input = uniform((joined, inputs), inputs)
        self.bias = uniform((joined, 1), inputs) if bias else None
        self.output = uniform((joined, outputs), joined)

    def by_input(self, x: Tensor) -> Tensor:
        """Multiply the input mode with the tokens; the tokens are the last axis: (joined, t)."""
        if self.bias is None:
            return self.input @ x.t()
        return torch.addmm(self.bias, self.input, x.t())

    def with_modes(self, gates: Sequence[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
        """Pair the gates of each expert mode, or of all experts, with that mode."""
        split = len(gates) == len(self.modes)
        return zip(gates, self.modes if split else [self.joint_mode()], strict=True)

    def joint_mode(self) -> Tensor:
        """Return all expert modes as one: (E, …)."""
        return reduce(lambda a, b: type(self).join(a.unsqueeze(1), b).flatten(0, 1), self.modes)


FURTHER_SPREAD = 0.1


def spreads(modes: tuple[int, ...]) -> list[float]:
    """Return the standard deviation, around 1, of the initial entries of each expert mode.

    The authors use 1, 0, 0, …: with gates that start at 0, the experts of a further mode then have
    equal values and gradients, and training never separates them (64 experts in two levels remain
    8). So further modes get a small deviation here.
    """
    return [1.0, *[FURTHER_SPREAD] * (len(modes) - 1)]


@register_experts("cp", family="factorised", source="arXiv 2402.12550")
class CPExperts(FactorisedExperts):
    """μMoE with CP factors: W[n, i, o] = Σ_r A[n, r] · B[i, r] · C[o, r], never formed.

    y = ((a A) ∘ (x B)) Cᵀ: every expert acts on every token at the cost of a few thin products, and
    there can be as many experts as the gate can afford; with two levels A is A₁[n₁, r] · A₂[n₂, r].
    The experts start alike except for their scales: A is N(1, 1), a second level's N(1, 0.01).

    Cost: R · (ΣE_l + i + o) parameters per layer, twice as many FLOPs per token. Known limits:
    needs a mixture router; a single expert is a matrix of rank R, without separate weights.
    """

    def build_layer(self, inputs: int, outputs: int) -> FactorisedLayer:
        return CPLayer(self.modes, inputs, outputs, self.replaced.bias, self.solved_rank)

    def layer_parameters(self, modes: tuple[int, ...], inputs: int, outputs: int, rank: int) -> int:
        return rank * (sum(modes) + inputs + self.replaced.bias + outputs)


class CPLayer(FactorisedLayer):
    """A layer of `CPExperts` with expert modes (E_l, R)."""

    join = torch.mul

    def __init__(
        self, modes: tuple[int, ...], inputs: int, outputs: int, bias: bool, rank: int
    ) -> None:
        super().__init__(inputs, rank, outputs, bias)
        self.modes = nn.ParameterList(torch.empty(size, rank) for size in modes)
        for mode, spread in zip(self.modes, spreads(modes), strict=True):
            nn.init.normal_(mode, 1, spread)

    def forward(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        # With the tokens last, (R, t), products and sums run along whole vectors. Matrices whose
        # rows have an odd length R would make some products 1.5 times as slow.
        joined = self.by_input(x)
        for gate, mode in self.with_modes(gates):
            joined = joined * (mode.t() @ gate)
        return joined.t() @ self.output


@register_experts("tr", family="factorised", source="arXiv 2402.12550")
class TRExperts(FactorisedExperts):
    """μMoE with tensor-ring cores: W[n, i, o] = trace(A[:, n, :] · B[:, i, :] · C[:, o, :]).

    A is (q, E, q), B (q, i, R), C (R, o, q): the rank at which experts differ, at most q², is
    chosen independently of R. With two levels A[:, n, :] is A₁[:, n₁, :] · A₂[:, n₂, :]. The
    experts start alike except for their scales: slices of A are diagonal, N(1, 1), a second level's
    N(1, 0.01).

    Cost: q²·ΣE_l + q·R·(i + o) parameters per layer; 2q²·R FLOPs per token besides the products
    with them. Known limit: needs a mixture router.
    """

    ring_rank: int = hyper(4, "q, the rank of the ring next to the expert modes.", ge=1)

    def build_layer(self, inputs: int, outputs: int) -> FactorisedLayer:
        ranks = self.ring_rank, self.solved_rank
        return TRLayer(self.modes, inputs, outputs, self.replaced.bias, *ranks)

    def layer_parameters(self, modes: tuple[int, ...], inputs: int, outputs: int, rank: int) -> int:
        cores = rank * (inputs + self.replaced.bias + outputs)
        return self.ring_rank**2 * sum(modes) + self.ring_rank * cores


class TRLayer(FactorisedLayer):
    """A layer of `TRExperts`: expert modes are (E_l, q, q), the others join q and R in one axis."""

    join = torch.matmul

    def __init__(
        self, modes: tuple[int, ...], inputs: int, outputs: int, bias: bool, ring: int, rank: int
    ) -> None:
        super().__init__(inputs, ring * rank, outputs, bias)
        self.ring = ring
        self.modes = nn.ParameterList(torch.eye(ring).repeat(size, 1, 1) for size in modes)
        with torch.no_grad():
            for mode, spread in zip(self.modes, spreads(modes), strict=True):
                mode.mul_(torch.empty_like(mode).normal_(1, spread))

    def forward(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        mixed = [
            (gate.t() @ mode.flatten(1)).unflatten(1, mode.shape[1:])
            for gate, mode in self.with_modes(gates)
        ]
        cored = self.by_input(x).t().unflatten(1, (self.ring, -1))  # q and R as separate axes
        return reduce(torch.matmul, [*mixed, cored]).flatten(1) @ self.output
