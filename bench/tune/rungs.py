"""Successive halving over seeds: many settings train on one seed, the best few on more.

Every setting trains on the first seed. The best third of them, but at least two, train on two more
seeds; the best third of those, but at least two, go on until they have three times as many; and so
on until some have all the seeds. Settings are ranked by the mean over their seeds, so luck on one
seed does not decide. The number of trainings follows from the numbers of settings and seeds alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import fmean

FACTOR = 3
"""A rung has one in this many settings of the rung below, and this many times its seeds."""
FEWEST = 2
"""Least number of settings in a rung: with one setting there is nothing to compare."""


@dataclass(frozen=True)
class Rung:
    """A number of settings, and of the seeds they train on, those of lower rungs included."""

    settings: int
    seeds: int


@dataclass(frozen=True)
class Tried:
    """The accuracies that a setting has reached.

    Attributes:
        values: its validation accuracy on each seed so far, at least one; 0 if it left no model.
        whole: whether it trained to the end on the first seed, neither failed nor pruned.
    """

    values: tuple[float, ...]
    whole: bool = True

    def score(self, seeds: int) -> tuple[bool, float]:
        """Return the key that ranks it after this many seeds; the highest is best."""
        return self.whole, fmean(self.values[:seeds])


def rungs(settings: int, seeds: int) -> list[Rung]:
    """Return the rungs, the lowest one first."""
    made = [Rung(settings, 1)]
    while made[-1].seeds < seeds:
        below = made[-1]
        fewer = min(below.settings, max(FEWEST, ceil(below.settings / FACTOR)))
        made.append(Rung(fewer, min(FACTOR * below.seeds, seeds)))
    return made


def count_trainings(settings: int, seeds: int) -> int:
    """Return the number of trainings in all rungs."""
    steps = pairwise([Rung(0, 0), *rungs(settings, seeds)])
    return sum(rung.settings * (rung.seeds - below.seeds) for below, rung in steps)


def next_training(tried: Sequence[Tried], settings: int, seeds: int) -> tuple[int, int] | None:
    """Return the setting and the seed of the next training, or None if all are done.

    Both count from 0; a setting whose number is `len(tried)` is a new one. If there were fewer
    settings at first, those that were promoted then keep their places.
    """
    if len(tried) < settings:
        return len(tried), 0
    for below, rung in pairwise(rungs(settings, seeds)):
        climbed = [n for n, each in enumerate(tried) if len(each.values) > below.seeds]
        for number in climbed:
            if len(tried[number].values) < rung.seeds:
                return number, len(tried[number].values)
        if len(climbed) < rung.settings:
            left = [n for n, each in enumerate(tried) if len(each.values) == below.seeds]
            return max(left, key=lambda n: tried[n].score(below.seeds)), below.seeds
    return None


def winner(tried: Sequence[Tried]) -> int | None:
    """Return the setting with the best mean of those on the most seeds; None if none is whole.

    If several are equal, return the first.
    """
    whole = [number for number, each in enumerate(tried) if each.whole]
    most = max((len(tried[number].values) for number in whole), default=0)
    furthest = [number for number in whole if len(tried[number].values) == most]
    return max(furthest, key=lambda number: fmean(tried[number].values), default=None)
