"""Routing: which expert processes which token, and how the outputs are combined.

Axes: g groups, t tokens, d width, E experts, s slots of an expert, k experts of a token.

A routing *is* two tensors, dispatch `D` and combine `C`, both (g, t, E, s):

    slot_inputs[g,e,s] = Σ_t D[g,t,e,s] · x[g,t]
    y[g,t]             = Σ_e,s C[g,t,e,s] · expert_e(slot_inputs[g,e,s])

Each form stores them in its cheapest exact shape. The tensors are the definition; `dispatch` and
`combine` are the fast paths, and must match it in value and in gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from routers.errors import RequestError

T = TypeVar("T")


class computed_once(Generic[T]):
    """A property that is cached on first use, except while torch's compiler traces.

    `functools.cached_property` takes a lock in Python 3.11, which the compiler cannot trace.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, routing: Any, owner: type) -> T:
        if routing is None:  # accessed on the class
            return self  # type: ignore[return-value]
        value = self.compute(routing)
        if not torch.compiler.is_compiling():
            routing.__dict__[self.name] = value
        return value


@dataclass(frozen=True, eq=False)
class Routing(ABC):
    """The result of a router: which tokens go to which experts, with which weights.

    Attributes:
        gates: (g, t, E) float, each token's distribution over the experts, without noise.
        noisy_gates: the same with the noise that was added to the logits; None if none was.
        logits: the router's logits without noise, (g, t, E), (g, t, E, s) if soft, or those of
            several expert modes, concatenated; set by `Router.forward`.
        noisy_logits: the logits used for the allocation; the same tensor if there is no noise.
        hidden: (g, t, h), the gate's hidden vectors, if the router's own loss reads them.
        noise_std: standard deviation of the noise that was added to the logits; 0 for none.
        diagnostics: what the allocation reports about itself, such as `marginal_error` (g,); also
            a token's outputs before and after experts make them orthogonal (see `lora`).
        loss: the router's own auxiliary loss in training, a weighted scalar; None for none.
        statistics: what the router's `after_step` needs besides the loads, without a gradient.
        expert_sizes: parameters of each expert; empty if all are alike.
        mask: (g, t) bool, the real tokens if others are padding; None if all are real.
        refused: bool scalar, whether a token's logits were not finite, if raising an error would
            have meant waiting for a GPU; None if it was known.
    """

    gates: Tensor
    logits: Tensor | None = field(default=None, kw_only=True)
    noisy_logits: Tensor | None = field(default=None, kw_only=True)
    noisy_gates: Tensor | None = field(default=None, kw_only=True)
    hidden: Tensor | None = field(default=None, kw_only=True)
    noise_std: float = field(default=0.0, kw_only=True)
    diagnostics: dict[str, Tensor] = field(default_factory=dict, kw_only=True)
    loss: Tensor | None = field(default=None, kw_only=True)
    statistics: dict[str, Tensor] = field(default_factory=dict, kw_only=True)
    expert_sizes: tuple[int, ...] = field(default=(), kw_only=True)
    mask: Tensor | None = field(default=None, kw_only=True)
    refused: Tensor | None = field(default=None, kw_only=True)

    constant_load: ClassVar[bool] = False
    """Whether the load of an expert is constant by construction."""
    seen_by_all: ClassVar[bool] = False
    """Whether every expert processes every token of its group."""

    @property
    def choices(self) -> int | None:
        """The most experts that a token chooses; None if tokens do not choose."""
        return None

    @property
    def num_tokens(self) -> int:
        return self.gates.shape[1]

    @property
    def num_experts(self) -> int:
        return self.gates.shape[2]

    @property
    @abstractmethod
    def num_slots(self) -> int:
        """The slots of each expert in each group, used or not."""

    @property
    def slot_count(self) -> int:
        """The total slots that the experts run, used or not: g · E · s."""
        return self.gates.shape[0] * self.num_experts * self.num_slots

    def real(self, values: Tensor) -> Tensor:
        """Return the values of the real tokens: (g, t, …) -> (n, …), without those of padding."""
        return values.flatten(0, 1) if self.mask is None else values[self.mask]

    @abstractmethod
    def dispatch_tensor(self) -> Tensor:
        """Return `D`, (g, t, E, s)."""

    @abstractmethod
    def combine_tensor(self) -> Tensor:
        """Return `C`, (g, t, E, s), differentiable."""

    def dispatch(self, x: Tensor) -> Tensor:
        """Gather slot inputs, expert first: (g, t, …) -> (E, g, s, …); unused slots hold zeros."""
        d = self.dispatch_tensor().to(x.dtype)
        return torch.einsum("gtes,gtd->egsd", d, x.flatten(2)).unflatten(3, x.shape[2:])

    def combine(self, slot_outputs: Tensor) -> Tensor:
        """Combine slot outputs into token outputs: (E, g, s, …) -> (g, t, …)."""
        c = self.combine_tensor().to(slot_outputs.dtype)
        y = torch.einsum("gtes,egsd->gtd", c, slot_outputs.flatten(3))
        return y.unflatten(2, slot_outputs.shape[3:])

    def reweighted(self, factors: Tensor) -> Self:
        """Multiply each expert's combine weights by a factor, (E,) float; nothing is rerouted."""
        raise RequestError(f"{type(self).__name__} cannot be reweighted: it defines no way to")

    def combine_weights(self) -> Tensor:
        """Return (g, t, E): combine weights summed over an expert's slots."""
        return self.combine_tensor().sum(-1)

    def taken(self) -> Tensor:
        """Return (g, t, E) bool: which experts process each token, after dropping."""
        return (self.dispatch_tensor() != 0).any(-1)

    def sought(self) -> Tensor:
        """Return (g, t, E) bool: which experts each token seeks, before dropping."""
        return self.taken()

    def expert_load(self) -> Tensor:
        """Return (g, E) long: tokens that each expert processes, after dropping."""
        return self.taken().sum(1)

    def token_coverage(self) -> Tensor:
        """Return (g, t) long: experts that process each token, after dropping."""
        return self.taken().sum(2)

    def demand(self) -> Tensor:
        """Return (g, E) long: the load before dropping."""
        return self.expert_load()

    def first_choice(self) -> Tensor:
        """Return (g, t) long: the expert that each token prefers, the lowest on ties."""
        return self.gates.argmax(-1)

    def dropped_share(self) -> Tensor:
        """Return the share of the tokens' choices that were lost to capacity, a scalar."""
        demand = self.demand().sum()
        return (demand - self.expert_load().sum()) / demand.clamp(min=1)
