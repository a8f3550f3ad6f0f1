"""Routers: an affinity turns tokens into logits, and an allocation turns logits into a routing.

Axes: g groups, t tokens, d width, E experts, s slots of an expert, k experts of a token.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from routers.affinity import AFFINITIES, build_affinity
from routers.errors import RequestError, misspelt
from routers.hyper import Range, hyper
from routers.layer_info import ExpertTrials, RouterContext, Site
from routers.logits import refusing_non_finite
from routers.parts import Batch
from routers.prunable import Prunable
from routers.registry import Registry
from routers.routing import Routing, route_padded

RAGGED = "tokens take different numbers of experts, and the largest sets the shape"

ROUTERS = Registry("router")
register_router = ROUTERS.register


class Router(nn.Module, Prunable):
    """Base class of all routers: subclasses define `allocate`, and seldom anything else.

    A logit of −∞ masks a pair of a token and an expert. Logits that are NaN or +∞, and tokens
    without a finite logit, are refused before `allocate` sees them: see `routers.logits`.

    Args:
        dim, num_experts: d and E.
        tokens: tokens per group, for routers that have parameters for each slot.
        site: what else the router may need to know about its layer.

    Raises:
        RequestError: an unknown hyper-parameter, or an invalid value.
    """

    spans_batch: ClassVar[bool] = False
    """Whether the router, by definition, routes all tokens of the batch together."""
    ignores_groups: ClassVar[bool] = False
    """Whether a token is routed the same in any group, be it alone or in the whole batch."""
    host_reads: ClassVar[str] = ""
    """Why a forward pass waits for a GPU to read values; empty if it does not."""
    needs_sums: ClassVar[bool] = False
    """Whether `after_step` asks for sums over micro-batches, so that a batch may be split."""

    # The affinity is half of a router, not a setting of one: chosen or swept, not tuned by default.
    affinity: str = hyper("linear", "How tokens become logits: linear, cosine, mlp or soft.")
    affinity_options: dict[str, Any] = hyper({}, "Hyper-parameters of the affinity.")
    capacity_factor: float | None = hyper(
        1.0, "Total slots over the choices that seek one; None sets no limit.", gt=0
    )
    eval_capacity_factor: Annotated[float, Field(gt=0)] | Literal["same"] | None = hyper(
        "same", "The capacity factor outside training."
    )
    noise_std: float = hyper(
        0.0,
        "Standard deviation of Gaussian noise on the logits in training, times E.",
        ge=0,
        tune=Range(0.0, 2.0),
    )

    def __init__(
        self,
        dim: int,
        num_experts: int,
        tokens: int | None = None,
        site: Site | None = None,
        **hyper: Any,
    ) -> None:
        super().__init__()
        self.dim, self.num_experts, self.tokens = dim, num_experts, tokens
        self.site = site or Site()
        self.set_hyper(hyper)
        self.gate = self.build_gate()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if callable(vars(cls).get("score")):
            raise RequestError(
                f"router {cls.__name__!r} overrides `score`, which is called `compute_logits` now: "
                "rename it"
            )
        for name in {"allocate", "allocate_noisy"} & vars(cls).keys():
            setattr(cls, name, refusing_non_finite(vars(cls)[name]))

    def build_gate(self) -> nn.Module:
        """Build the affinity, a module that maps (g, t, d) and the context to logits."""
        return self.build_affinity(self.num_experts)

    def build_affinity(self, outputs: int) -> nn.Module:
        """Return the affinity that the hyper-parameters name, with this many logits per token."""
        target = AFFINITIES.get(self.affinity).target
        if outputs != self.num_experts and getattr(target, "per_expert", False):
            raise RequestError(
                f"affinity {self.affinity!r} gives one logit for each of the {self.num_experts} "
                f"experts, and this router asks for {outputs}: use another affinity"
            )
        return build_affinity(self.affinity, self.dim, outputs, self.site, **self.affinity_options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `model.bfloat16()` reaches every module; a router stays in float32, as it computes there.
        def kept_wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrowed = moved.is_floating_point() and moved.dtype.itemsize < 4
            return tensor.to(moved.device) if narrowed else moved

        return super()._apply(kept_wide, recurse)

    def forward(self, tokens: Tensor, context: RouterContext | None = None) -> Routing:
        """Route a batch of groups, in float32 or better, even under autocast.

        Args:
            tokens: (g, t, d) float; tokens of another shape, (g, t, …), are flattened.
            context: with a `mask`, only the real tokens are routed, as groups of just those.

        Raises:
            NonFiniteError: a token's logits are NaN or +∞, or all of them −∞. If finding out would
                mean waiting for a GPU, the routing's `refused` says so instead.
            RequestError: the mask does not fit the tokens.
        """
        context = context or RouterContext()
        if context.mask is not None:
            together = self.spans_batch or self.ignores_groups
            return route_padded(self._route, tokens, context, together)
        return self._route(tokens, context)

    def _route(self, tokens: Tensor, context: RouterContext) -> Routing:
        """Route tokens without padding."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = (tokens if tokens.dtype == torch.float64 else tokens.float()).flatten(2)
            logits = self.compute_logits(tokens, context)
            std = self.logit_noise() if self.training else 0.0
            noisy = logits
            if std > 0:
                noisy = logits + std * self.draw_noise(logits, context.generator)
                routing = self.allocate_noisy(logits, noisy)
            else:
                routing = self._allocated(logits)
            routing = dataclasses.replace(
                routing,
                logits=logits,
                noisy_logits=noisy,
                noise_std=std,
                expert_sizes=self.site.expert_sizes,
            )
            return self.complete(routing, tokens)

    def complete(self, routing: Routing, tokens: Tensor) -> Routing:
        """Return the routing, completed from the tokens themselves, (g, t, d)."""
        return routing

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        """Compute clean logits: (g, t, d) -> (g, t, E), or (g, t, E, s) for soft routers."""
        logits: Tensor = self.gate(tokens, context)
        return logits

    def modes(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each expert mode; a token needs a finite logit in each of them."""
        return (logits,)

    def allocate(self, logits: Tensor) -> Routing:
        """Assign tokens to experts: (g, t, E) logits -> a routing."""
        raise TypeError(
            f"router {type(self).__name__!r} defines no allocate(self, logits)"
            f"{misspelt(self, 'allocate', Router)}"
        )

    def _allocated(self, logits: Tensor) -> Routing:
        routing: object = self.allocate(logits)
        if isinstance(routing, Routing):
            return routing
        raise RequestError(
            f"router {getattr(self, 'name', type(self).__name__)!r}: `allocate` returns "
            f"{described(routing)}, not a Routing; build one of the gates, such as "
            "TokenChoiceRouting.top_k(gates, k=1, capacity=self.capacity(logits)); for k choices "
            "pass self.capacity(logits, k)"
        )

    def allocate_noisy(self, logits: Tensor, noisy: Tensor) -> Routing:
        """Allocate by the noisy logits; the routing's `gates` stay those of the clean ones."""
        routing = self._allocated(noisy)
        clean = self.clean_gates(logits)
        return dataclasses.replace(routing, gates=clean, noisy_gates=routing.gates)

    def clean_gates(self, logits: Tensor) -> Tensor:
        """Return the gates of logits without noise, (g, t, E)."""
        return self.allocate(logits).gates

    def logit_noise(self) -> float:
        """Return the standard deviation of the logits' noise: `noise_std` / E (2106.05974)."""
        return self.noise_std / self.num_experts

    def draw_noise(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw standard normal noise of the shape of the logits."""
        return torch.empty_like(logits).normal_(generator=generator)

    def capacity(self, logits: Tensor, k: int = 1) -> int | None:
        """Return each expert's slots for (g, t, E) logits, k choices per token; None for no limit.

        ceil(capacity_factor · t · k / E), never more than t.
        """
        factor = self.capacity_factor
        if not self.training and self.eval_capacity_factor != "same":
            factor = self.eval_capacity_factor
        if factor is None:
            return None
        tokens, experts = logits.shape[1:3]
        return min(tokens, math.ceil(factor * tokens * k / experts - 1e-9))

    def own_loss(self, routing: Routing, batch: Batch) -> Tensor | None:
        """Return the router's own auxiliary loss, a weighted scalar, or None if it has none.

        By default it is `routing.loss`, a mean over tokens. A loss that is no such mean gets its
        sums from `batch.whole`, so that it does not depend on how a batch is split.
        """
        return routing.loss

    @property
    def trials(self) -> ExpertTrials | None:
        """When `after_step` also gets `expert_losses`, (images, E): the loss with each expert."""
        return None

    def after_step(self, stats: dict[str, Tensor]) -> None:
        """Update the gate after an optimiser step, for gates that are updated without a gradient.

        State that lasts from step to step belongs in buffers or parameters: an interrupted training
        run resumes from those. Gradients are recorded here, so parameters must be changed under
        `torch.no_grad()`.

        Args:
            stats: int64 tensors, (E,), on the model's device, summed over all groups of the batch:
                `load`, the tokens that each expert processed; `demand`, the tokens that sought it,
                so `demand - load` is the number that it dropped.
                Also what `allocate` puts into `routing.statistics`, summed over the micro-batches
                of the step.
        """

    def after_model_step(self, layers: Sequence[dict[str, Tensor]]) -> None:
        """Update state that all layers of a model share, after `after_step`.

        Args:
            layers: the `stats` of each MoE layer, in network order.
        """

    def extra_repr(self) -> str:
        own = {"dim": self.dim, "num_experts": self.num_experts, **self.hyper_values()}
        return ", ".join(f"{name}={value!r}" for name, value in own.items())


class Unlimited(Router):
    """Base class of routers without a capacity, which drop nothing."""

    capacity_factor: ClassVar[None] = None  # type: ignore[misc]
    eval_capacity_factor: ClassVar[Literal["same"]] = "same"  # type: ignore[misc]


class OwnGate(Unlimited):
    """Base class of routers without a capacity whose gate is part of their definition."""

    affinity: ClassVar[str] = "none"  # type: ignore[misc]
    affinity_options: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    noise_std: ClassVar[float] = 0.0  # type: ignore[misc]


def build_router(
    name: str,
    *,
    dim: int,
    num_experts: int,
    tokens: int | None = None,
    site: Site | None = None,
    **hyper: Any,
) -> Router:
    """Build a registered router by name; the arguments and errors are those of `Router`."""
    target = ROUTERS.get(name).target
    router: Router = target(dim, num_experts, tokens=tokens, site=site, **hyper)
    return router


def described(value: Any) -> str:
    """Describe a value for a message: its type, and a tensor's shape."""
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
    return "None" if value is None else f"a {type(value).__name__}{shape}"


def list_routers() -> list[str]:
    """Return the names of all registered routers."""
    return ROUTERS.names()
