"""Interim analyses: when to add seeds until all differences are decided, and what decides one."""

from collections.abc import Mapping
from typing import Any

from results.statistics.means import ALPHA, PairedDifference

FEWEST = 3
"""Seeds at the first interim analysis; with fewer, a t-test finds next to nothing."""


def interim_analyses(first: int, most: int) -> tuple[int, ...]:
    """Return the numbers of seeds to analyse at: `first`, doubled each time, and finally `most`.

    Raises:
        ValueError: `most` is below `first`.
    """
    if not 1 <= first <= most:
        raise ValueError(f"no interim analyses from {first} to {most} seeds")
    planned = [first]
    while planned[-1] * 2 < most:
        planned.append(planned[-1] * 2)
    return tuple(dict.fromkeys([*planned, most]))


def planned_analyses(request: Mapping[str, Any]) -> int:
    """Return the number of interim analyses that a study planned; 1 if its seeds were fixed."""
    return int((request.get("sequential") or {}).get("looks", 1))


def is_decided(difference: PairedDifference, adjusted: float | None, resolve: float) -> bool:
    """Tell whether a comparison is decided, so that it needs no more seeds.

    Either the two differ, or they differ by less than the smallest difference of interest.

    Args:
        difference: the difference, with its interval at a confidence of 1 - 0.05 / (number of
            interim analyses).
        adjusted: the adjusted p-value, see `Compared`.
        resolve: the smallest difference of interest, in the metric's unit.
    """
    if adjusted is not None and adjusted < ALPHA:
        return True
    low, high = difference.low, difference.high
    return low is not None and high is not None and -resolve <= low and high <= resolve
