"""The processes that share one training run, its ranks; sums over a batch are sums over ranks.

Each rank trains on a share of every batch, as on micro-batches. Gradients are summed here after the
backward pass, not by torch's `DistributedDataParallel` during it: that follows the outputs of a
model to its parameters, but auxiliary losses reach them through recorded routings instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from routers.errors import NonFiniteError

Value = TypeVar("Value")

BUCKET_BYTES = 64 << 20
"""Bytes of gradients that are summed at a time."""
PATIENCE = timedelta(days=7)
"""The longest wait for the other ranks: if one is gone, whoever started them ends them all."""


class RankLostError(Exception):
    """Another rank of this training run is gone; its own error says why."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a training run, as one of them sees them; a single rank exchanges nothing.

    All ranks call the same methods in the same order, but a rank may `refuse` before any of them.

    Attributes:
        number: the number of ranks.
        rank: the number of this one, from 0; the first evaluates and writes all files.
    """

    number: int = 1
    rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the rank that evaluates and writes."""
        return self.rank == 0

    @property
    def counters(self) -> tuple[int, ...]:
        """The counters that give a rank random numbers of its own; none for the first."""
        return () if self.first else (self.rank,)

    def sum(self, own: Tensor) -> Tensor:
        """Return the sum over the ranks, without a gradient, with the same bits on each rank.

        Raises:
            NonFiniteError: another rank refused its logits.
            RankLostError: another rank is gone.
        """
        if self.number == 1:
            return own
        self._agree()
        total = own.detach().clone()
        with _peers():
            distributed.all_reduce(total)
        return total

    def total(self, own: float) -> float:
        """Return the sum of a number over the ranks, exact for integers below 2⁵³."""
        if self.number == 1:
            return own
        return float(self.sum(torch.tensor(own, dtype=torch.float64)))

    def gather(self, own: Value) -> list[Value]:
        """Return the values of all ranks, in the order of the ranks."""
        if self.number == 1:
            return [own]
        self._agree()
        return self._gathered(own)

    def of_first(self, compute: Callable[[], Value]) -> Value:
        """Compute a value on the first rank only, and return it on every rank.

        `NonFiniteError` is raised on every rank.
        """
        if self.number == 1:
            return compute()
        value: list[Any] = [None]
        if self.first:
            try:
                value = [compute()]
            except NonFiniteError as error:
                self.refuse(error)
                raise
        self._agree()
        with _peers():
            distributed.broadcast_object_list(value)
        result: Value = value[0]
        return result

    def refuse(self, error: NonFiniteError) -> None:
        """Make every other rank raise this error, instead of its next exchange with the others."""
        if self.number > 1:
            self._exchange_errors(str(error))

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum the gradients over the ranks; a gradient that no rank has stays None."""
        if self.number == 1:
            return
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        has = self.sum(torch.tensor([parameter.grad is not None for parameter in learned]).long())
        gradients = []
        for parameter, some in zip(learned, has.tolist(), strict=True):
            if some and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for bucket in buckets(gradients):
            joined = torch.cat([gradient.flatten() for gradient in bucket])
            with _peers():
                distributed.all_reduce(joined)
            sizes = [gradient.numel() for gradient in bucket]
            for gradient, summed in zip(bucket, joined.split(sizes), strict=True):
                gradient.copy_(summed.view_as(gradient))

    @torch.no_grad()
    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first rank."""
        for tensor in tensors if self.number > 1 else ():
            copied = tensor.detach().contiguous()
            with _peers():
                distributed.broadcast(copied, 0)
            tensor.copy_(copied)

    def _agree(self) -> None:
        """Raise the error with which another rank refused, if one did."""
        self._exchange_errors(None)

    def _exchange_errors(self, own: str | None) -> None:
        # Always on the CPU, so as not to wait for a GPU.
        refused = torch.tensor(int(own is not None))
        with _peers():
            distributed.all_reduce(refused)
        if not refused:
            return
        errors = self._gathered(own)
        if own is None:
            raise NonFiniteError(next(error for error in errors if error is not None))

    def _gathered(self, own: Value) -> list[Value]:
        values: list[Any] = [None] * self.number
        with _peers():
            distributed.all_gather_object(values, own)
        return values


ALONE = Ranks()


@contextmanager
def joined(number: int, rank: int, meeting: Path, device: torch.device) -> Iterator[Ranks]:
    """Join the other ranks of a training run on this machine.

    Args:
        meeting: a file that does not exist yet, through which the ranks find each other.
        device: the device of this rank; no two ranks share a GPU.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    place = meeting.absolute().as_uri()
    with _peers():
        distributed.init_process_group(backend, place, PATIENCE, number, rank)
    try:
        yield Ranks(number, rank)
    finally:
        distributed.destroy_process_group()


def buckets(tensors: Sequence[Tensor], most: int = BUCKET_BYTES) -> Iterator[list[Tensor]]:
    """Yield runs of tensors of one type, of at most `most` bytes if a run has more than one."""
    for _, alike in groupby(tensors, key=lambda tensor: tensor.dtype):
        bucket: list[Tensor] = []
        for tensor in alike:
            if bucket and sum(each.nbytes for each in bucket) + tensor.nbytes > most:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket


@contextmanager
def _peers() -> Iterator[None]:
    """Raise `RankLostError` for what torch raises when it cannot reach another rank."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RankLostError(f"another rank is gone: {' '.join(str(error).split())}") from error
