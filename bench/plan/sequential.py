"""`--seeds auto`: seeds are added, the same for every router, until the differences are decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bench.config import Preset
from bench.plan.expand import selected_routers
from results.statistics import PairedDifference
from results.statistics.declared import FEWEST, NULLS, is_decided, looks
from routers.errors import RequestError

SUITE = "accuracy"


class Tested(Protocol):
    """A comparison that was declared beforehand, with its p-value over the family and the looks."""

    @property
    def difference(self) -> PairedDifference | None: ...

    @property
    def adjusted(self) -> float | None: ...


@dataclass(frozen=True)
class Sequential:
    """When seeds stop being added, and how far that is.

    Attributes:
        resolve: the smallest difference of interest, in points of top-1.
        seeds: at each look that was planned beforehand.
        taken: seeds of the last look so far; 0 before the first.
        compared, decided: comparisons at that look, and how many of them were decided.
    """

    resolve: float
    seeds: tuple[int, ...]
    taken: int = 0
    compared: int = 0
    decided: int = 0

    @property
    def over(self) -> bool:
        """Whether no seed is to be added any more."""
        return self.taken == self.seeds[-1] or (self.taken > 0 and self.decided == self.compared)

    def record(self) -> dict[str, Any]:
        """As plain data, for the study's row."""
        return {
            "resolve": self.resolve,
            "looks": len(self.seeds),
            "seeds": list(self.seeds),
            "taken": self.taken,
            "compared": self.compared,
            "decided": self.decided,
        }

    def after(self, taken: int, found: Iterable[Tested]) -> Sequential:
        """How far it is after a look.

        What cannot be compared, since a router has no result, is not waited for.

        Args:
            taken: seeds of that look.
            found: the comparisons, of accuracies as shares.
        """
        there = [(each.difference, each.adjusted) for each in found]
        decided = [
            is_decided(difference, adjusted, self.resolve / 100)
            for difference, adjusted in there
            if difference is not None
        ]
        return replace(self, taken=taken, compared=len(decided), decided=sum(decided))


def planned(preset: Preset, suites: Iterable[str], resolve: float, most: int) -> Sequential:
    """Looks from the preset's number of seeds on, three at least, up to a limit.

    Raises:
        RequestError: the limit is below the first look, or there is nothing to compare.
    """
    first = max(FEWEST, preset.seeds)
    if most < first:
        raise RequestError(
            f"--max-seeds {most} is below the first look of --seeds auto, at {first} seeds; give "
            f"--max-seeds {2 * first} or more"
        )
    if SUITE not in suites:
        raise RequestError(
            f"--seeds auto decides by test accuracy, and the suite {SUITE!r} is not asked for; "
            "name it, or give a number of seeds"
        )
    names = [router.name for router in selected_routers(preset)]
    if len(names) < 2:
        other = "a router" if names[0] in NULLS else "'dense'"
        raise RequestError(
            f"--seeds auto compares routers, and {names[0]!r} is the only one; add another, such "
            f"as {other}, or give a number of seeds"
        )
    if not set(names) - set(NULLS):
        raise RequestError(
            f"--seeds auto compares routers with nulls and each other, and {', '.join(names)} are "
            "nulls; add a router, or give a number of seeds"
        )
    return Sequential(resolve, looks(first, most))


def refuse_other_looks(study: str, asked: Sequential, before: Mapping[str, Any]) -> None:
    """Refuse to plan looks anew once results may have been seen: the error rate is of one plan.

    Args:
        before: the study's last request; empty where there was none.

    Raises:
        RequestError: the looks are others than those that were planned first.
    """
    first = before.get("sequential", {}).get("seeds", list(asked.seeds))
    if list(asked.seeds) == first:
        return
    then, now = (", ".join(map(str, seeds)) for seeds in (first, asked.seeds))
    raise RequestError(
        f"study {study!r} has its looks planned at {then} seeds; to look at {now} instead, now "
        f"that results are there, would break the error rate: give --max-seeds {first[-1]} and a "
        f"preset of {first[0]} seeds again, or --study another name"
    )


def add_seeds(
    asked: Sequential,
    look: Callable[[Sequential, int], Iterable[Tested] | None],
    tell: Callable[[str], None],
) -> Sequential:
    """Look until all is decided, or the limit is reached.

    Args:
        look: is told how it stood after the look before; trains every router with seeds 0 to n - 1
            and returns the comparisons declared beforehand; None where it had to leave early.
        tell: is told in a sentence how it stands after each look.
    """
    for number in asked.seeds:
        found = look(asked, number)
        if found is None:
            break
        asked = asked.after(number, found)
        tell(sentence(asked))
        if asked.over:
            break
    return asked


def sentence(asked: Sequential) -> str:
    """How it stands after a look."""
    told = f"{asked.taken} seeds: {asked.decided} of {asked.compared} differences decided"
    if not asked.over:
        return f"{told}; on to {min(n for n in asked.seeds if n > asked.taken)} seeds"
    end = "that is all" if asked.decided == asked.compared else "this is the limit"
    return f"{told}; {end}"
