"""When there are runs enough: looks planned beforehand, at an error rate that holds at each.

To test after every few seeds and stop at the first p < 0.05 finds differences where there are none,
the more often one looks. So the number of looks is fixed before the first one, and each is held to
its share of the error rate (Bonferroni): p-values times the looks, intervals at a confidence of
1 - 0.05 / looks; `family` makes both. All looks together then raise a false alarm in at most 5 % of
all studies, whatever stops them, and an interval holds at whichever look was the last.
"""

from __future__ import annotations

from results.statistics.correction import ALPHA
from results.statistics.paired import PairedDifference

FEWEST = 3
"""Seeds at the first look: below it a t-test finds next to nothing."""


def looks(first: int, most: int) -> tuple[int, ...]:
    """The numbers of seeds to look at: `first`, twice as many each time, and `most` at last.

    Raises:
        ValueError: `most` is below `first`.
    """
    if not 1 <= first <= most:
        raise ValueError(f"no looks from {first} to {most} seeds")
    planned = [first]
    while planned[-1] * 2 < most:
        planned.append(planned[-1] * 2)
    return tuple(dict.fromkeys([*planned, most]))


def is_decided(difference: PairedDifference, adjusted: float | None, resolve: float) -> bool:
    """Whether more seeds would tell nothing that was asked for.

    Either the two differ, or they differ by less than anybody asked to see.

    Args:
        difference: its interval at a confidence of 1 - 0.05 / looks.
        adjusted: the p-value over the family and the looks; None where there is no test.
        resolve: the smallest difference of interest, in the metric's unit.
    """
    if adjusted is not None and adjusted < ALPHA:
        return True
    low, high = difference.low, difference.high
    return low is not None and high is not None and -resolve <= low and high <= resolve
