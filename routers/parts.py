"""Losses over a whole batch that is split into micro-batches or over several processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from routers.errors import RequestError

Loss = TypeVar("Loss", bound=Callable[..., Tensor])


def in_parts(passes: int) -> Callable[[Loss], Loss]:
    """Declare that a loss does not depend on how a batch is split.

    Args:
        passes: 1 for a mean over tokens or images, or a loss that defines how it handles parts;
            2 for a function of sums, which it gets from `Batch.whole`.
    """

    def declare(loss: Loss) -> Loss:
        loss.passes = passes  # type: ignore[attr-defined]
        return loss

    return declare


def passes_of(loss: Any) -> int:
    """Return how many passes over the parts a loss needs; 0 if it needs the batch in one piece."""
    return getattr(loss, "passes", 0)


class Parts:
    """The parts of a batch, one after the other; a first pass over them adds up their sums.

    Losses ask for their sums in the same order in each part, which identifies the sums.

    Args:
        over_ranks: sums a tensor over the processes that hold the other parts of the batch, each of
            which asks for the same sums.
    """

    def __init__(self, over_ranks: Callable[[Tensor], Tensor] = lambda own: own) -> None:
        self._over_ranks = over_ranks
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, tuple[Tensor, int]] = {}
        self._adding, self._share = False, 1.0
        self._summed = self._counted = 0

    def begin(self, share: float, *, adding: bool) -> None:
        """Begin a part with this share of the images, in the first pass (`adding`) or the last."""
        self._adding, self._share = adding, share
        self._summed = self._counted = 0

    def end_first_pass(self) -> None:
        """Add up the sums over the parts of all processes."""
        self._sums = {index: self._over_ranks(own) for index, own in self._sums.items()}

    def whole(self, own: Tensor) -> Tensor:
        """Return the sum over all parts; see `Batch.whole`."""
        index, self._summed = self._summed, self._summed + 1
        if self._adding:
            self._sums[index] = self._sums.get(index, 0) + own.detach()
            return own
        # The loss is weighted by this part's share of the images, but its gradient must not be.
        return self._sums[index] + (own - own.detach()) / self._share

    def so_far(self, own: Tensor) -> Tensor:
        """Return the mean over the parts so far, in the last pass; see `Batch.so_far`."""
        if self._adding:
            return own
        index, self._counted = self._counted, self._counted + 1
        total, parts = self._counts.get(index, (own.new_zeros(()), 0))
        self._counts[index] = total + own.detach(), parts + 1
        return self._over_ranks(self._counts[index][0] / (parts + 1))


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of a loss besides the routing: (batch, …) float inputs and (batch,) long labels.

    Attributes:
        parts: the parts of the larger batch that these belong to; None if they are all of it.

    Raises:
        RequestError: there are no inputs, so no loss has a mean.
    """

    inputs: Tensor
    labels: Tensor
    parts: Parts | None = None

    def __post_init__(self) -> None:
        if not len(self.inputs):
            raise RequestError("a loss is a mean over the images of a batch, and this one has none")

    def whole(self, own: Tensor) -> Tensor:
        """Turn a sum over the tokens of this part into the sum over the whole batch.

        Its value is that of the whole batch, but its gradient reaches this part only, so that the
        gradients of all parts add up to that of the unsplit batch.
        """
        return own if self.parts is None else self.parts.whole(own)

    def so_far(self, own: Tensor) -> Tensor:
        """Return the mean of this part's counts and those of the parts before it, without gradient.

        It is summed over the processes of a training run.
        """
        return own if self.parts is None else self.parts.so_far(own)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the tokens of the whole batch: (n, …) of this part -> (…).

        0 where there are none: the batch is all padding.
        """
        tokens = self.whole(values.new_full((), len(values)))
        return self.whole(values.sum(0)) / tokens.clamp(min=1)
