"""The MoE layer: a router and experts in the place of a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.model.experts import Experts
from bench.model.state import ModelPasses
from routers import (
    GroupChoiceRouting,
    MixtureRouting,
    PaddedRouting,
    Part,
    RequestError,
    Router,
    RouterContext,
    Routing,
)

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
        if router.trials and groups != "image":
            raise RequestError(
                f"model.groups = {groups!r}: the router {type(router).__name__} takes an expert "
                "for each image; use model.groups = 'image'"
            )
        if experts.mixes_tokens and router.spans_batch:
            raise RequestError(
                f"the router {type(router).__name__} routes the tokens of the whole batch "
                f"together, and experts {experts.name!r} read whole images: use a router that "
                "routes images, as 'moce_ir', or experts.name = mlp"
            )
        if experts.mixes_tokens and groups != "image":
            raise RequestError(
                f"model.groups = {groups!r}: experts {experts.name!r} read whole images; use "
                "model.groups = 'image'"
            )
        self.passes = ModelPasses()
        self.factors: Tensor | None = None
        self._attention: Tensor | None = None
        self._forced: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, …, *token) -> (batch, …, *output); the axes between are tokens.

        Padding, which the pass's mask or the block's attention mask tells, gets an output of 0, so
        that the block's residual connection carries it unchanged.
        """
        grouped = self._grouped(x)
        call = self.passes.call(self, x)
        mask = self._mask(call.context.mask, grouped)
        context = replace(call.context, mask=mask)
        if mask is not None:
            # What it holds, be it NaN, reaches no weight and no gradient.
            grouped = _zeroed(grouped, mask)
        seen = Activations(self.experts, grouped)
        routing = self.route(grouped, context, seen)
        call.record(routing)
        y = self.process(routing, grouped, seen)
        if self.shared is not None:
            ones = grouped.new_ones(*grouped.shape[:2], self.shared.num_experts)
            y = y + self.shared.apply(MixtureRouting(ones), grouped)
            y = y if mask is None else _zeroed(y, mask)
        y = y.to(x.dtype)
        call.keep_with(y)
        return y.reshape(*x.shape[: -len(self.token_shape)], *y.shape[2:])

    def route(
        self, grouped: Tensor, context: RouterContext, seen: Activations | None = None
    ) -> Routing:
        """Route grouped tokens, (g, t, …)."""
        if self._forced is not None:
            return self._all_at(self._forced, grouped, context.mask)
        seen = seen or Activations(self.experts, grouped)
        routing: Routing = self.router(grouped, replace(context, expert_hidden=seen))
        return routing

    @contextmanager
    def forced(self, expert: int) -> Iterator[None]:
        """Send every token to this expert, with weight 1, whatever the router says."""
        self._forced = expert
        try:
            yield
        finally:
            self._forced = None

    def _all_at(self, expert: int, grouped: Tensor, mask: Tensor | None) -> Routing:
        experts = torch.full((len(grouped), 1), expert, device=grouped.device)
        gates = F.one_hot(experts, self.experts.num_experts).to(grouped.dtype)
        gates = gates.expand(*grouped.shape[:2], -1)
        return GroupChoiceRouting.of(gates, experts, None if mask is None else mask.unsqueeze(-1))

    @property
    def token_shape(self) -> tuple[int, ...]:
        """The shape of a token: (d,), or the input shape of the replaced module."""
        return self.experts.replaced.token_shape

    def notice(self, block: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Take note of the attention mask that a block of timm's was called with."""
        self._attention = options.get("attn_mask")

    def _mask(self, mask: Tensor | None, grouped: Tensor) -> Tensor | None:
        """Return (g, t) bool, the real tokens; None where no padding is told."""
        attention, self._attention = self._attention, None
        if mask is None and attention is not None:
            mask = attended(attention)
        if mask is None:
            return None
        if mask.numel() != grouped.shape[:2].numel():
            raise RequestError(
                f"a mask of shape {tuple(mask.shape)} does not fit the "
                f"{grouped.shape[:2].numel()} tokens of a batch at an MoE layer: give (batch, "
                "tokens) bool, with the class token where the model has one"
            )
        return mask.reshape(grouped.shape[:2])

    def process(self, routing: Routing, grouped: Tensor, seen: Activations | None = None) -> Tensor:
        """Run the experts on grouped tokens, (g, t, …), as they were routed."""
        seen = seen or Activations(self.experts, grouped)
        if self.factors is not None:
            routing = routing.reweighted(self.factors)
        if isinstance(routing, PaddedRouting):
            return routing.spread(
                lambda part: self._experts(part.routing, part.of(grouped), seen.at(part))
            )
        return self._experts(routing, grouped, seen)

    def _experts(self, routing: Routing, grouped: Tensor, seen: Activations) -> Tensor:
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


def attended(mask: Tensor) -> Tensor:
    """Tell which tokens an attention mask lets anyone read: (b, heads, q, t) -> (b, t) bool.

    The mask is bool, or is added to the scores: 0, or as low as its type allows.
    """
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return allowed.flatten(1, -2).any(1)


def _zeroed(values: Tensor, mask: Tensor) -> Tensor:
    """Set the values of padding to 0: (g, t, …), (g, t) -> (g, t, …)."""
    return values.masked_fill(~mask.view(*mask.shape, *[1] * (values.dim() - 2)), 0)


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

    def at(self, part: Part) -> Activations:
        """Return those on the tokens of a part of the groups."""
        own = Activations(self._experts, part.of(self._x))
        own.value = None if self.value is None else self.value.flatten(1, 2)[:, part.rows]
        return own
