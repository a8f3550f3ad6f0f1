"""Failures of jobs: the status that an attempt gets, and whether the whole run is to end."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import suppress
from dataclasses import dataclass

import torch

from bench.config import TrialSpec
from bench.data import Datasets
from bench.model import trial_model
from bench.train import TrainingInterrupted, why_not_cut
from results.store.records import AttemptStatus
from routers.errors import NonFiniteError

DISK_FULL = "the disk is full; free some space and give the command again"
POSTGRESQL_DISK_FULL = "53100"
"""Its SQLSTATE."""
CUDA_MEMORY_ALLOCATION = 2
"""`cudaErrorMemoryAllocation`."""


@dataclass(frozen=True)
class WorkerFailure:
    """A job whose worker ended without a result.

    Attributes:
        status: what becomes of its attempt.
        error: one line.
        leave: why the whole run is to end, where it is.
    """

    status: AttemptStatus
    error: str
    traceback: str | None = None
    leave: str | None = None


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, is that of a disk without room."""
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
    """Return whether an error is that of memory, of the CPU or of a device, without room."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # `torch.AcceleratorError`, for what fails outside torch's allocator; older torch has no such.
    if getattr(error, "error_code", None) == CUDA_MEMORY_ALLOCATION:
        return True
    # The CPU's allocator raises a bare RuntimeError: only its text tells.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def status_of(error: BaseException) -> AttemptStatus:
    """Return the status of an attempt that ended with an error; interrupted if from outside."""
    if isinstance(error, (KeyboardInterrupt, TrainingInterrupted)) or is_disk_full(error):
        return AttemptStatus.INTERRUPTED
    if isinstance(error, NonFiniteError):
        return AttemptStatus.DIVERGED
    return AttemptStatus.OUT_OF_MEMORY if is_out_of_memory(error) else AttemptStatus.FAILED


def remedy(spec: TrialSpec, datasets: Datasets) -> str:
    """Say what would let a training that was out of memory fit."""
    parts = 2 * spec.train.micro_batches
    reason = None
    # A model that cannot be built now, for want of memory, is refused by the next run if need be.
    with suppress(Exception):
        reason = why_not_cut(spec, trial_model(spec, datasets.get(spec.data)), parts)
    if reason:
        return f"train.micro_batches = {parts} would change what is computed: {reason}"
    return f"--set train.micro_batches={parts} trains each batch in {parts} parts"
