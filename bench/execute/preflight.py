"""Rehearsals: what would stop a training is detected before any training starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch

from bench.config import RouterConfig, TrialSpec
from bench.data import Dataset, Datasets
from bench.execute.jobs import Job
from bench.model import Objective, moe_layers, starting_model, trial_model
from bench.plan import condition_of
from bench.train import refuse_other_optimisation
from routers.errors import RequestError

Check = Callable[[], None]
"""Returns where a rehearsal went well; else raises what it raised."""


def refuse_untrainable(
    jobs: Iterable[Job], preflight: Callable[[Sequence[TrialSpec]], Iterable[Check]]
) -> None:
    """Rehearse each training once, whatever the number of its seeds.

    Args:
        preflight: of the run's executor.

    Raises:
        RequestError: one cannot be trained as it was asked for; it names the trial.
    """
    trials = [job for job in jobs if job.decision.train]
    once = {condition_of(job.planned.spec): job for job in trials}.values()
    checks = preflight([job.planned.spec for job in once])
    for job, check in zip(once, checks, strict=True):
        try:
            check()
        except RequestError as error:
            raise RequestError(f"{job.task.name}: {error}") from error
        except (Exception, SystemExit):
            continue  # no mistake in the request: its training fails, and its row says why


def rehearse(spec: TrialSpec, datasets: Datasets, device: torch.device) -> None:
    """Build the model and evaluate its objective on a few blank images, without gradients.

    A derived trial starts from an untrained parent. torch's generators are left as they were.

    Raises:
        RequestError: the model cannot be built or derived, its groups do not fit its batches, an
            auxiliary loss does not fit its router, or its batches cannot be cut.
    """
    dataset, parent = datasets.get(spec.data), spec.parent
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        untrained = None if parent is None else trial_model(parent, datasets.get(parent.data))
        model = starting_model(spec, dataset, untrained)
        model = model.to(device).train()
        refuse_other_optimisation(spec, model)
        groups = spec.model.groups
        count = 2
        if moe_layers(model) and isinstance(groups, int):
            tokens = _tokens_of_image(spec, dataset)
            _refuse_misfit(groups, tokens, _batches(spec, dataset))
            count = math.lcm(2, *(groups // math.gcd(groups, each) for each in tokens))
        images = torch.zeros(count, *dataset.image_shape, device=device)
        labels = torch.zeros(count, dtype=torch.long, device=device)
        noise = torch.Generator(device)
        Objective(spec.train)(model, images, labels, step=0, generator=noise)
        model.eval()(images)  # a router may route otherwise once training is over


def _tokens_of_image(spec: TrialSpec, dataset: Dataset) -> list[int]:
    """Return the tokens of one image at each MoE layer, in a model that takes any number."""
    by_image = spec.model.model_copy(update={"groups": "image"})
    with torch.device("meta"):
        model = trial_model(
            spec.model_copy(update={"model": by_image}), dataset, router=RouterConfig(name="random")
        )
    return [int(layer.router.tokens or 0) for layer in moe_layers(model).values()]


def _batches(spec: TrialSpec, dataset: Dataset) -> dict[str, int]:
    """Return the images of each kind of batch: outside training the last batch is smaller."""
    size = spec.train.batch_size
    last = {name: len(dataset.splits[name]) % size or size for name in ("val", "test")}
    return {"a training batch": size} | {
        f"the last batch of {name}": images for name, images in last.items()
    }


def _refuse_misfit(groups: int, tokens: list[int], batches: dict[str, int]) -> None:
    sums = {
        f"{name} has {images} x {each} = {images * each}": images * each
        for name, images in batches.items()
        for each in dict.fromkeys(tokens)
    }
    common = math.gcd(*sums.values())
    if common % groups:
        fitting = [number for number in range(1, common + 1) if common % number == 0]
        nearest = min(fitting, key=lambda number: abs(number - groups))
        raise RequestError(
            f"model.groups = {groups} does not divide the tokens of every batch: "
            f"{', '.join(sums)}; the nearest number that does is {nearest}"
        )
