"""What is checked: a component in each of its settings; a router in a small MoE layer.

Axes: g groups, t tokens, d width, E experts.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench.model import (
    Activations,
    MLPExperts,
    MoELayer,
    ReplacedMLP,
    forward_pass,
    seeded,
    site_of,
)
from routers import (
    AFFINITIES,
    ROUTERS,
    Choice,
    Entry,
    Range,
    RequestError,
    Router,
    RouterContext,
    Routing,
    SoftRouting,
    build_router,
)
from routers.hyper import HyperInfo, hyper_infos

CROWDED = {"top_k": 2, "capacity_factor": 0.7}
ALTERNATIVES: dict[str, Callable[[], list[Any]]] = {
    "affinity": AFFINITIES.names,
    "top_k": lambda: [2],
    "capacity_factor": lambda: [0.7, None],
    "eval_capacity_factor": lambda: [0.7],
    "noise_std": lambda: [1.0],
}


@dataclass(frozen=True)
class Setting:
    """A component with the options that differ from its defaults."""

    entry: Entry
    options: dict[str, Any]

    @property
    def label(self) -> str:
        """The options in words."""
        return ", ".join(f"{name}={value}" for name, value in self.options.items()) or "defaults"


def other_settings(entry: Entry) -> Iterator[dict[str, Any]]:
    """Yield options that differ from the defaults, one at a time, some also with full experts."""
    model = entry.hyper_model
    infos = {info.name: info for info in hyper_infos(model)}
    # Second choices meet full experts only if both are set.
    crowded = {name: CROWDED[name] for name in CROWDED if name in infos}
    if crowded:
        yield crowded
    for name, info in infos.items():
        for value in _alternatives(info, model.model_fields[name].annotation):
            yield {name: value}
            if isinstance(value, bool) and crowded:
                yield crowded | {name: value}


def _alternatives(info: HyperInfo, annotation: Any) -> list[Any]:
    """List values that a hyper-parameter might have instead of its default."""
    options: typing.Iterable[Any] = ()
    if info.name in ALTERNATIVES:
        options = ALTERNATIVES[info.name]()
    elif isinstance(info.default, bool):
        options = (not info.default,)
    elif isinstance(info.tune, Range):
        return [info.tune.low, info.tune.high]
    elif isinstance(info.tune, Choice):
        options = info.tune.options
    elif typing.get_origin(annotation) is typing.Literal:
        options = typing.get_args(annotation)
    return [value for value in options if value != info.default]


def is_accepted(build: Callable[[], object]) -> bool:
    """Tell whether a setting is accepted, by building it; a crash is left to the checks to find."""
    try:
        build()
    except Exception as error:
        return not isinstance(error, RequestError)
    return True


def accepted(routings: dict[str, Routing], call: Callable[[Routing], object]) -> dict[str, Routing]:
    """Return the routings that a call accepts; it refuses the others with a `RequestError`."""
    taken = {}
    for name, routing in routings.items():
        with suppress(RequestError):
            call(routing)
            taken[name] = routing
    return taken


@dataclass(frozen=True)
class Subject(Setting):
    """One router in one setting."""

    dim: int = 8
    num_experts: int = 4
    tokens: int = 16
    groups: int = 3

    def layer(self, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> MoELayer:
        """Return the router in an MoE layer of MLP experts; `seed` fixes all its weights."""
        with seeded(seed):
            experts = MLPExperts(self.num_experts, ReplacedMLP(self.dim, 2 * self.dim))
            router = build_router(
                self.entry.name,
                dim=self.dim,
                num_experts=self.num_experts,
                tokens=self.tokens,
                site=site_of(experts),
                **self.options,
            )
            for parameter in experts.parameters():
                # So that an expert's output is about as large as its input.
                torch.nn.init.normal_(parameter, std=0.5)
            fill_zeros(router)
        return MoELayer(router, experts).to(dtype)

    def tokens_of(self, kind: str = "random", *, seed: int = 1) -> Tensor:
        """Return inputs (g, t, d), float64: "random", "constant", "zero" or "huge" (1e4)."""
        shape = (self.groups, self.tokens, self.dim)
        x = normal(*shape, seed=seed)
        if kind == "constant":
            return x[:1, :1].expand(shape).contiguous()
        return x * {"random": 1.0, "zero": 0.0, "huge": 1e4}[kind]

    def routed(self, kind: str, *, training: bool) -> tuple[Router, Routing]:
        """Route one kind of input through a fresh layer; return its router and the routing."""
        layer = self.layer().train(training)
        _, routing = run(layer, self.tokens_of(kind))
        return layer.router, routing

    @cached_property
    def routings(self) -> list[tuple[str, Router, Routing]]:
        """The routings of every kind of input, in training and eval mode, each with its label.

        Those that crash or are not finite are left out: the check `finite` reports them.
        """
        usable = []
        for training, kind in CASES:
            with suppress(Exception):
                router, routing = self.routed(kind, training=training)
                if routing.gates.isfinite().all() and routing.combine_weights().isfinite().all():
                    usable.append((in_case(training, kind), router, routing))
        return usable


KINDS = ("random", "constant", "zero", "huge")
CASES = [(training, kind) for training in (True, False) for kind in KINDS]


def in_case(training: bool, kind: str) -> str:
    """Return the mode and the kind of input in words."""
    return f"{kind} input, {'training' if training else 'eval'} mode"


def subjects(name: str, fixed: dict[str, Any], sizes: dict[str, int]) -> list[Subject]:
    """Return a router with its defaults, and with each hyper-parameter changed from its default.

    Hyper-parameters that are `fixed` stay as they are; sizes are fields of `Subject`.

    Raises:
        RequestError: the hyper-parameters do not fit the router.
    """
    entry = ROUTERS.get(name)
    entry.validate(fixed)
    if entry.target.spans_batch:
        sizes = {"groups": 1, **sizes}
    first = Subject(entry, fixed, **sizes)
    others = (
        dataclasses.replace(first, options=fixed | setting)
        for setting in other_settings(entry)
        if not setting.keys() & fixed.keys()
    )
    return [first, *(subject for subject in others if is_accepted(subject.layer))]


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw a standard normal tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fill_zeros(module: torch.nn.Module) -> None:
    """Fill parameters that are all 0 with random values, since zeros hide what depends on them."""
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)


def run(layer: MoELayer, x: Tensor, *, seed: int = 2) -> tuple[Tensor, Routing]:
    """Run a layer with noise fixed by `seed`; return its output (g, t, d) and its routing."""
    with forward_pass(layer, generator=torch.Generator().manual_seed(seed)) as routings:
        y = layer(x)
    return y, routings[0]


def context_of(layer: MoELayer, x: Tensor) -> RouterContext:
    """Build the context of a layer's router, with activations in the experts' own precision.

    In a model the input has that precision too; here only the router gets another one.
    """
    weight = next(layer.experts.parameters())
    generator = torch.Generator().manual_seed(2)
    return RouterContext(generator, expert_hidden=Activations(layer.experts, x.to(weight.dtype)))


def outputs_of(y: Tensor, routing: Routing) -> dict[str, Tensor]:
    """Return the tensors by which two passes are compared: the output and the routing."""
    return {"y": y, **tensors(routing)}


def tensors(routing: Routing) -> dict[str, Tensor]:
    """Return the parts of a routing that a pass depends on, by name."""
    parts = {"gates": routing.gates}
    if isinstance(routing, SoftRouting):
        parts |= {"dispatch": routing.dispatch_tensor(), "combine": routing.combine_tensor()}
    else:
        # The order of slots means nothing, and if nothing is dropped, the fullest expert in the
        # whole batch determines their number.
        parts["dispatch"] = routing.dispatch_tensor().sum(-1)
        parts["combine"] = routing.combine_weights()
    return parts if routing.logits is None else {**parts, "logits": routing.logits}
