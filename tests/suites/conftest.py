"""Subjects for the suites, built from real routers on small random data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from routers import ROUTERS, Baseline, Router, Routing, build_router, list_routers
from routers.errors import UndefinedError
from suites import HistoryPoint, Observed

CPU = torch.device("cpu")
DIM, HIDDEN, TOKENS, EXPERTS, CLASSES = 8, 16, 12, 4, 7


class Mlp(nn.Sequential):
    """A dense MLP with the shape of one expert."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class Layer(nn.Module):
    """A plain MoE layer with one group per image."""

    def __init__(self, router: Router, hidden: int) -> None:
        super().__init__()
        self.router = router
        self.experts = nn.ModuleList(Mlp(router.dim, hidden) for _ in range(router.num_experts))

    def forward(self, x: Tensor) -> Tensor:
        routing = self.router(x)
        slots = routing.dispatch(x)
        pairs = zip(self.experts, slots, strict=True)
        return routing.combine(torch.stack([expert(rows) for expert, rows in pairs]))


class Model(nn.Module):
    """Two layers with the rows of an image as tokens, and a linear head."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1, 2)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x.mean(1))


def make_layer(router: str, dim: int, hidden: int, tokens: int, num_experts: int) -> nn.Module:
    target = ROUTERS.get(router).target
    if issubclass(target, Baseline):
        return Mlp(dim, hidden * num_experts if target.widen else hidden)
    return Layer(build_router(router, dim=dim, num_experts=num_experts, tokens=tokens), hidden)


def make_model(router: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Model([make_layer(router, DIM, HIDDEN, TOKENS, EXPERTS) for _ in range(2)]).eval()


@dataclass
class FakeSnapshot:
    step: int
    model: nn.Module
    flops: float = 0.0
    seconds: float = 0.0

    def load(self) -> nn.Module:
        return self.model


@dataclass
class FakeTrial:
    """A trial of an untrained model on random images; routings by forward hooks."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    batch_size: int = 16
    snapshots: list[FakeSnapshot] = field(default_factory=list)
    history: list[HistoryPoint] = field(default_factory=list)
    stats: dict[str, float] = field(default_factory=dict)
    device: torch.device = CPU
    num_classes: int = CLASSES
    num_experts: int = EXPERTS
    attribute_names: tuple[str, ...] = ("plain", "marked")
    asked: list[tuple[str, int]] = field(default_factory=list)

    @property
    def class_names(self) -> list[str]:
        return [str(index) for index in range(self.num_classes)]

    def start(self) -> nn.Module:
        """The first snapshot; without one the start is unknown, as in a derived trial."""
        if not self.snapshots:
            raise UndefinedError("no weights were kept")
        return self.snapshots[0].load()

    def labels_of(self, split: str) -> Tensor:
        return self.labels

    @torch.no_grad()
    def run(
        self,
        model: nn.Module,
        split: str,
        batch_size: int | None = None,
        places: Tensor | None = None,
    ) -> Iterator[Observed]:
        size = batch_size or self.batch_size
        chosen = slice(None) if places is None else places
        parts = (each[chosen].split(size) for each in (self.images, self.labels))
        for images, labels in zip(*parts, strict=True):
            self.asked.append((split, len(labels)))
            routings: list[Routing] = []
            handles = [
                part.register_forward_hook(lambda *call, seen=routings: seen.append(call[2]))
                for part in model.modules()
                if isinstance(part, Router)
            ]
            logits = model(images)
            for handle in handles:
                handle.remove()
            yield Observed(images, labels, logits, routings)

    def attribute(self, split: str) -> Tensor | None:
        """Alternate between the two values over the images of each class."""
        seen = one_hot(self.labels).cumsum(0).gather(1, self.labels.unsqueeze(1)).squeeze(1)
        return seen % 2 if self.attribute_names else None

    @torch.no_grad()
    def answers(self, model: nn.Module, images: Tensor, factors: Mapping[int, Tensor]) -> Tensor:
        routers = [part for part in model.modules() if isinstance(part, Router)]
        handles = [
            routers[index].register_forward_hook(lambda *call, by=by: call[2].reweighted(by))
            for index, by in factors.items()
        ]
        logits = model(images)
        for handle in handles:
            handle.remove()
        return logits


@dataclass
class FakeLayers:
    """Bare layers and models of one router."""

    router_name: str
    device: torch.device = CPU
    image_shape: tuple[int, int, int] = (1, TOKENS, DIM)
    tokens: int = TOKENS
    dim: int = DIM
    hidden: int = HIDDEN
    num_experts: int = EXPERTS
    replaces_mlps: bool = True

    def layer(self, batch: int, tokens: int, dim: int, hidden: int, num_experts: int) -> nn.Module:
        return make_layer(self.router_name, dim, hidden, tokens, num_experts)

    def mlp(self, dim: int, hidden: int) -> nn.Module:
        return Mlp(dim, hidden)

    def dense_rows(self, layer: nn.Module, mlp: nn.Module, x: Tensor) -> int:
        return layer.router(x).slot_count if isinstance(layer, Layer) else x.shape[:-1].numel()

    def model(self) -> nn.Module:
        return make_model(self.router_name)

    def dense_model(self) -> nn.Module:
        return make_model("dense")


EACH_KIND = {
    *("softmax_token_choice", "top_p", "softmax_expert_choice"),
    *("soft_moe", "softmax_mixture", "smear"),
}
"""A router for each kind of routing, which is all that suites see; others are slow tests."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise by every router that is no baseline and requires nothing of the experts."""
    if "router" in metafunc.fixturenames:
        names = [name for name in list_routers() if name != "attentive"]
        routed = [name for name in names if not issubclass(ROUTERS.get(name).target, Baseline)]
        assert set(routed) >= EACH_KIND
        slow = {name: [] if name in EACH_KIND else [pytest.mark.slow] for name in routed}
        metafunc.parametrize("router", [pytest.param(name, marks=slow[name]) for name in routed])


@pytest.fixture
def trial() -> Callable[..., FakeTrial]:
    """Make a trial of the router of that name, with two snapshots of different weights."""

    def make(router: str, **attributes: Any) -> FakeTrial:
        torch.manual_seed(1)
        images, labels = torch.randn(40, 1, TOKENS, DIM), torch.randint(CLASSES, (40,))
        snapshots = [FakeSnapshot(step, make_model(router, step)) for step in (0, 30)]
        values = {"images": images, "labels": labels, "snapshots": snapshots} | attributes
        return FakeTrial(make_model(router), **values)

    return make


@pytest.fixture
def layers() -> type[FakeLayers]:
    """Make the layers of the router of that name."""
    return FakeLayers
