"""Failures of trainings: detected by a rehearsal before any starts, or classified afterwards."""

import errno
import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import torch

from bench.config import TrialSpec
from bench.data import Dataset, Datasets
from bench.execute.jobs import Job
from bench.measure import layers_by_image
from bench.model import Objective, Parent, moe_layers, starting_model, trial_model
from bench.plan import condition_of
from bench.train import TrainingInterrupted, refuse_other_optimisation, why_not_cut
from results.store.records import AttemptStatus
from routers.errors import NonFiniteError, RequestError

DISK_FULL = "the disk is full; free some space and run the command again"
POSTGRESQL_DISK_FULL = "53100"
"""PostgreSQL's SQLSTATE for a full disk."""
CUDA_MEMORY_ALLOCATION = 2
"""CUDA's error code `cudaErrorMemoryAllocation`."""

Check = Callable[[], None]
"""A function that raises the error of a rehearsal, if there was one."""


def refuse_untrainable(
    jobs: Iterable[Job], preflight: Callable[[Sequence[TrialSpec]], Iterable[Check]]
) -> None:
    """Rehearse each training once, whatever the number of its seeds.

    Raises:
        RequestError: a trial cannot be trained as asked for; the message names it, unless the
            dense model fails in the same way.
    """
    trials = [job for job in jobs if job.decision.train]
    once = {condition_of(job.planned.spec): job for job in trials}.values()
    checks = preflight([job.planned.spec for job in once])
    for job, check in zip(once, checks, strict=True):
        if refusal := _refusal(check):
            (of_dense,) = preflight([job.planned.spec.dense()])
            if str(_refusal(of_dense)) == str(refusal):
                raise refusal
            raise RequestError(f"{job.task.name}: {refusal}") from refusal


def _refusal(check: Check) -> RequestError | None:
    """Return the mistake in the request that a check finds, or None; other errors are ignored."""
    try:
        check()
    except RequestError as error:
        return error
    except (Exception, SystemExit):
        pass  # the training will fail, and its row says why
    return None


def rehearse(spec: TrialSpec, datasets: Datasets, device: torch.device) -> None:
    """Build the model and evaluate its objective on a few blank images, without gradients.

    A derived trial starts from an untrained parent. The states of torch's generators are restored.

    Raises:
        RequestError: the model cannot be built or derived, its groups do not fit its batches, an
            auxiliary loss does not fit its router, or its batches cannot be split.
    """
    dataset, parent = datasets.get(spec.data), spec.parent
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        untrained = None
        if parent is not None:
            untrained = Parent(trial_model(parent, datasets.get(parent.data)))
        model = starting_model(spec, dataset, untrained)
        model = model.to(device).train()
        refuse_other_optimisation(spec, model)
        groups = spec.model.groups
        count = 2
        if moe_layers(model) and isinstance(groups, int):
            with torch.device("meta"):
                layers = layers_by_image(spec, dataset)
            tokens = [int(layer.router.tokens or 0) for layer in layers]
            _refuse_misfit(groups, tokens, spec, dataset)
            count = math.lcm(2, *(groups // math.gcd(groups, each) for each in tokens))
        images = torch.zeros(count, *dataset.image_shape, device=device)
        labels = torch.zeros(count, dtype=torch.long, device=device)
        noise = torch.Generator(device)
        Objective(spec.train)(model, images, labels, step=0, generator=noise)
        model.eval()(images)  # a router may route differently in evaluation


def _refuse_misfit(groups: int, tokens: list[int], spec: TrialSpec, dataset: Dataset) -> None:
    """Refuse a number of groups that does not divide the tokens of every batch."""
    size = spec.train.batch_size
    batches = {"a training batch": size}
    for name in ("val", "test"):  # outside training the last batch is smaller
        batches[f"the last batch of {name}"] = len(dataset.splits[name]) % size or size
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


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that caused it, means that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return True
        if getattr(error, "sqlstate", None) == POSTGRESQL_DISK_FULL:
            return True
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that the memory of the CPU or of a device is exhausted."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # `torch.AcceleratorError`, for failures outside torch's allocator; older torch lacks it.
    if getattr(error, "error_code", None) == CUDA_MEMORY_ALLOCATION:
        return True
    # The CPU's allocator raises a bare RuntimeError: only its text tells.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def status_of(error: BaseException) -> AttemptStatus:
    """Return the status of an attempt that failed; it is interrupted if the cause lies outside."""
    if isinstance(error, (KeyboardInterrupt, TrainingInterrupted)) or is_disk_full(error):
        return AttemptStatus.INTERRUPTED
    if isinstance(error, NonFiniteError):
        return AttemptStatus.DIVERGED
    return AttemptStatus.OUT_OF_MEMORY if is_out_of_memory(error) else AttemptStatus.FAILED


def remedy(spec: TrialSpec, datasets: Datasets) -> str:
    """Return advice that would let a training that ran out of memory fit."""
    parts = 2 * spec.train.micro_batches
    reason = None
    # If the model cannot be built now for lack of memory, the next run refuses it if necessary.
    with suppress(Exception):
        model = trial_model(spec, datasets.get(spec.data))
        reason = why_not_cut(spec, model, parts * spec.train.ranks)
    if reason:
        return f"train.micro_batches = {parts} would change what is computed: {reason}"
    return f"--set train.micro_batches={parts} trains each batch in {parts} parts"
