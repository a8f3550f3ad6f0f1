"""A data set and a model small enough to train in a second."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.config.schema import (
    ComputeConfig,
    DataConfig,
    ExpertsConfig,
    ModelConfig,
    RouterConfig,
    TrainConfig,
    TrialSpec,
)
from bench.data import Dataset, Datasets, Split
from bench.train.outcome import Outcome, SavedSnapshot, write_outcome
from results import Store, open_store
from routers import ROUTERS, Router, SoftRouting, register_router

CLASSES = 4
TINY_VIT = {
    "img_size": 8,
    "patch_size": 2,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
    "class_token": False,
    "global_pool": "avg",
}


def leave_outcome(folder: Path, snapshots: Sequence[SavedSnapshot] = (), steps: int = 1) -> None:
    """Write the outcome that a training leaves in its folder, beside its weights."""
    numbers = dict.fromkeys(("flops", "flops_budget", "budget", "seconds"), 1.0)
    done = Outcome(
        status="done",
        error=None,
        steps=steps,
        planned_steps=steps,
        budget_error=0.0,
        within_tolerance=True,
        uncounted=[],
        history=[],
        snapshots=list(snapshots),
        folder=folder,
        **numbers,
    )
    write_outcome(done)


@pytest.fixture(scope="session")
def datasets() -> Datasets:
    return Datasets()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bench.db")


@pytest.fixture(scope="session")
def tiny_dataset() -> Dataset:
    """Noisy grey images of 8 × 8 pixels with one of four stripe patterns."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % CLASSES
        images = torch.randint(0, 100, (count, 1, 8, 8), generator=generator)
        stripes = [(0, 0), (1, 0), (0, 1), (1, 1)]  # which of two rows or columns is lit
        for image, label in zip(images, labels.tolist(), strict=True):
            first, by_column = stripes[label]
            lit = image[0].T if by_column else image[0]
            lit[first::2] += 60
        return Split(images.to(torch.uint8), labels)

    return Dataset(
        name="stripes",
        classes=tuple("abcd"),
        splits={"train": split(96), "val": split(32), "test": split(32)},
        mean=torch.tensor([0.31]),
        std=torch.tensor([0.15]),
        content_hash="0" * 64,
        licence="none",
    )


@pytest.fixture(scope="session")
def tiny_spec() -> Callable[..., TrialSpec]:
    """Make trials: `tiny_spec("soft_moe", router={…}, seed=1, match="steps", epochs=2, …)`."""

    def make(
        name: str = "softmax_token_choice",
        *,
        router: dict[str, Any] | None = None,
        experts: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        seed: int = 0,
        match: str = "total_flops",
        **train: Any,
    ) -> TrialSpec:
        recipe = {"epochs": 2, "batch_size": 16, "snapshots": 3, "evaluations": 2, **train}
        return TrialSpec(
            router=RouterConfig(name=name, options=ROUTERS.get(name).validate(router or {})),
            experts=ExpertsConfig(**{"num_experts": 4, **(experts or {})}),
            model=ModelConfig(**{"options": TINY_VIT, **(model or {})}),
            data=DataConfig(name="digits"),
            train=TrainConfig(**recipe),
            compute=ComputeConfig(match=match),
            seed=seed,
        )

    return make


class Fuse:
    """The error that the router `exploding` raises in training, if any."""

    error: BaseException | None = None


@pytest.fixture
def exploding() -> Iterator[type[Fuse]]:
    @register_router("exploding", family="soft")
    class Exploding(Router):
        """A router with one slot per expert, until it raises."""

        def allocate(self, logits: Tensor) -> SoftRouting:
            if self.training and torch.is_grad_enabled() and Fuse.error is not None:
                raise Fuse.error
            return SoftRouting.from_logits(logits[..., None])

    Fuse.error = None
    yield Fuse
    ROUTERS.discard("exploding")
