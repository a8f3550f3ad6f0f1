"""The MoE layer: a router and experts in the place of a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from bench.model.experts import Experts
from bench.model.state import ModelPasses
from routers import MixtureRouting, RequestError, Router, RouterContext, Routing

Groups = Literal["image", "batch"] | int


class MoELayer(nn.Module):
    """A layer that routes tokens to experts and combines their outputs.

    Args:
        groups: what is routed together: the tokens of an "image", of the whole "batch", or of
            groups of this many tokens, which must divide those of the batch. A batch of no images
            has no groups. A router that spans the batch by its definition takes all of it.

        shared: experts that every token goes through, whose outputs are added, each with weight 1;
            they compete for nothing, and no routing or loss counts them.

    Attributes:
        factors: (E,) float, times the experts' combine weights; None changes nothing.
    """

    def __init__(
        self,
        router: Router,
        experts: Experts,
        groups: Groups = "image",
        shared: Experts | None = None,
    ) -> None:
        super().__init__()
        self.router, self.experts, self.shared = router, experts, shared
        self.groups: Groups = "batch" if router.spans_batch else groups
        self.passes = ModelPasses()
        self.factors: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, …, *token) -> (batch, …, *output); the axes between are tokens."""
        grouped = self._grouped(x)
        seen = Activations(self.experts, grouped)
        call = self.passes.call(self, x)
        routing = self.route(grouped, call.context, seen)
        call.record(routing)
        y = self._process(routing, grouped, seen)
        if self.shared is not None:
            ones = grouped.new_ones(*grouped.shape[:2], self.shared.num_experts)
            y = y + self.shared.apply(MixtureRouting(ones), grouped)
        y = y.to(x.dtype)
        call.keep_with(y)
        return y.reshape(*x.shape[: -len(self.token_shape)], *y.shape[2:])

    def route(
        self, grouped: Tensor, context: RouterContext, seen: Activations | None = None
    ) -> Routing:
        """Route grouped tokens, (g, t, …)."""
        seen = seen or Activations(self.experts, grouped)
        routing: Routing = self.router(grouped, replace(context, expert_hidden=seen))
        return routing

    @property
    def token_shape(self) -> tuple[int, ...]:
        """The shape of a token: (d,), or the input shape of the replaced module."""
        return self.experts.replaced.token_shape

    def _process(self, routing: Routing, grouped: Tensor, seen: Activations) -> Tensor:
        if self.factors is not None:
            routing = routing.reweighted(self.factors)
        kind = type(self.experts)
        plain = (kind.apply, kind.forward) == (Experts.apply, Experts.forward)
        if plain and seen.value is not None and isinstance(routing, MixtureRouting):
            # The router had every expert run on every token: that is half of the mixture.
            return routing.combine(self.experts.outputs(seen.value))
        return self.experts.apply(routing, grouped)

    def _grouped(self, x: Tensor) -> Tensor:
        """Group tokens: (batch, …, *token) -> (g, t, *token); g is 0 where there are no tokens."""
        shape = self.token_shape
        tokens = x.shape[: -len(shape)].numel()
        named = {"image": x.shape[1 : -len(shape)].numel(), "batch": tokens}
        size = max(1, named[self.groups] if isinstance(self.groups, str) else self.groups)
        if tokens % size:
            raise RequestError(
                f"model.groups = {self.groups} does not divide the tokens of a batch, {tokens}; "
                "choose a divisor, or 'image' or 'batch'"
            )
        return x.reshape(tokens // size, size, *shape)

    def extra_repr(self) -> str:
        return f"groups={self.groups!r}"


def moe_layers(model: nn.Module) -> dict[str, MoELayer]:
    """Return the MoE layers of a model by module name, in network order; none in a dense model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MoELayer)}


@contextmanager
def reweighted(layers: Sequence[MoELayer], factors: Mapping[int, Tensor]) -> Iterator[None]:
    """Multiply the combine weights of layers' experts; recorded routings do not change.

    `factors`, (E,) float, are by the index of a layer of a model, in network order.
    """
    for index, values in factors.items():
        layers[index].factors = values
    try:
        yield
    finally:
        for index in factors:
            layers[index].factors = None


class Activations:
    """The experts' hidden activations on every token, (g, t, …), computed on first use.

    Attributes:
        value: (E, g, t, h); None while nobody has asked.
    """

    def __init__(self, experts: Experts, x: Tensor) -> None:
        self._experts, self._x = experts, x
        kind = x.device.type
        self._autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        self.value: Tensor | None = None

    def __call__(self) -> Tensor:
        if self.value is None:
            enabled, dtype = self._autocast
            everywhere = self._x.unsqueeze(0).expand(self._experts.num_experts, *self._x.shape)
            # Routers compute in float32; the experts go on as the model does.
            with torch.autocast(self._x.device.type, dtype, enabled):
                self.value = self._experts.activations(everywhere)
        return self.value
