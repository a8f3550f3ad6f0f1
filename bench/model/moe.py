"""The MoE layer: a router and experts that replace a module."""

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
        groups: what is routed together: the tokens of an "image", of the whole "batch", or groups
            of this many tokens, a number that must divide the batch's tokens. An empty batch has
            no groups. A router that spans the batch by definition routes all of it together.
        shared: experts that process every token, whose outputs are added with weight 1 each; they
            do not compete with the routed ones, and no routing or loss includes them.

    Attributes:
        factors: (E,) float, multiplied with the experts' combine weights; None changes nothing.
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
                f"model.groups = {groups!r}: the router {type(router).__name__} chooses one "
                "expert per image; use model.groups = 'image'"
            )
        if experts.mixes_tokens and router.spans_batch:
            raise RequestError(
                f"the router {type(router).__name__} routes the tokens of the whole batch "
                f"together, but experts {experts.name!r} read whole images: use a router that "
                "routes images, such as 'moce_ir', or experts.name = mlp"
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

        Padding, given by the pass's mask or the block's attention mask, gets an output of 0, so
        that the block's residual connection leaves it unchanged.
        """
        grouped = self._grouped(x)
        call = self.passes.call(self, x)
        mask = self._mask(call.context.mask, grouped)
        context = replace(call.context, mask=mask)
        if mask is not None:
            # The content of padding, even NaN, must reach no weight and no gradient.
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
        """Send every token to this expert with weight 1, bypassing the router."""
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
        """Remember the attention mask that a timm block was called with (a forward pre-hook)."""
        self._attention = options.get("attn_mask")

    def _mask(self, mask: Tensor | None, grouped: Tensor) -> Tensor | None:
        """Return (g, t) bool, true for real tokens; None if no mask is given."""
        attention, self._attention = self._attention, None
        if mask is None and attention is not None:
            mask = attended(attention)
        if mask is None:
            return None
        if mask.numel() != grouped.shape[:2].numel():
            raise RequestError(
                f"a mask of shape {tuple(mask.shape)} does not fit the "
                f"{grouped.shape[:2].numel()} tokens of a batch at an MoE layer: give (batch, "
                "tokens) bool, including the class token if the model has one"
            )
        return mask.reshape(grouped.shape[:2])

    def process(self, routing: Routing, grouped: Tensor, seen: Activations | None = None) -> Tensor:
        """Run the experts on grouped tokens, (g, t, …), according to their routing."""
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
            # The router has already run every expert on every token: half of the mixture's work.
            return routing.combine(self.experts.outputs(seen.value))
        return self.experts.apply(routing, grouped)

    def _grouped(self, x: Tensor) -> Tensor:
        """Group tokens: (batch, …, *token) -> (g, t, *token); g is 0 if there are no tokens."""
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
    """Return which tokens an attention mask leaves visible: (b, heads, q, t) -> (b, t) bool.

    The mask is bool, or a float added to the scores: 0, or about the lowest value of its type.
    """
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return allowed.flatten(1, -2).any(1)


def _zeroed(values: Tensor, mask: Tensor) -> Tensor:
    """Set padding to 0: values (g, t, …), mask (g, t) -> (g, t, …)."""
    return values.masked_fill(~mask.view(*mask.shape, *[1] * (values.dim() - 2)), 0)


def moe_layers(model: nn.Module) -> dict[str, MoELayer]:
    """Return a model's MoE layers by module name, in network order; {} for a dense model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MoELayer)}


@contextmanager
def reweighted(layers: Sequence[MoELayer], factors: Mapping[int, Tensor]) -> Iterator[None]:
    """Multiply the combine weights of layers' experts; recorded routings do not change.

    `factors` maps the index of a layer, in network order, to (E,) float.
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
        value: (E, g, t, h); None until the first call.
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
            # Routers compute in float32; the experts use the model's precision.
            with torch.autocast(self._x.device.type, dtype, enabled):
                self.value = self._experts.activations(everywhere)
        return self.value

    def at(self, part: Part) -> Activations:
        """Return the activations on the tokens of a part of the groups."""
        own = Activations(self._experts, part.of(self._x))
        own.value = None if self.value is None else self.value.flatten(1, 2)[:, part.rows]
        return own
