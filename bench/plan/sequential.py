"""`--seeds auto`: add the same seeds for every router until all differences are decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.config import Preset
from bench.plan.expand import selected_routers
from results.statistics.comparisons import NULLS, Compared
from results.statistics.interim import FEWEST, interim_analyses, is_decided
from routers.errors import RequestError

SUITE = "accuracy"


@dataclass(frozen=True)
class Sequential:
    """The rule by which seeds are added, and its progress.

    Attributes:
        resolve: the smallest difference of interest, in points of top-1.
        seeds: the number of seeds at each interim analysis, planned beforehand.
        taken: the number of seeds at the last analysis so far; 0 before the first.
        compared, decided: comparisons at that analysis, and how many of them were decided.
    """

    resolve: float
    seeds: tuple[int, ...]
    taken: int = 0
    compared: int = 0
    decided: int = 0

    @property
    def over(self) -> bool:
        """Whether no more seeds are added."""
        return self.taken == self.seeds[-1] or (self.taken > 0 and self.decided == self.compared)

    @property
    def next(self) -> int:
        """The number of seeds of the next analysis; of the last one if it is over."""
        return self.taken if self.over else min(n for n in self.seeds if n > self.taken)

    def going_on(self, before: Mapping[str, Any]) -> Sequential:
        """Return the rule with the progress of a record; without it if that resolved other gaps."""
        if before.get("resolve") != self.resolve:
            return self
        return replace(self, **{key: before[key] for key in ("taken", "compared", "decided")})

    def record(self) -> dict[str, Any]:
        """Return the rule as plain data, for the study's row."""
        return {**asdict(self), "seeds": list(self.seeds), "looks": len(self.seeds)}

    def after(self, taken: int, comparisons: Iterable[Compared[Any]]) -> Sequential:
        """Return the rule with its progress after an interim analysis at `taken` seeds.

        A comparison without a difference, because a router has no result, is left out.

        Args:
            comparisons: the comparisons of accuracies, which are shares.
        """
        decided = [
            is_decided(each.difference, each.adjusted, self.resolve / 100)
            for each in comparisons
            if each.difference is not None
        ]
        return replace(self, taken=taken, compared=len(decided), decided=sum(decided))


def plan_analyses(preset: Preset, suites: Iterable[str], resolve: float, most: int) -> Sequential:
    """Plan interim analyses from the preset's number of seeds, at least three, up to a limit.

    Raises:
        RequestError: the limit is below the first analysis, or there is nothing to compare.
    """
    first = max(FEWEST, preset.seeds)
    if most < first:
        raise RequestError(
            f"--max-seeds {most} is below the first interim analysis of --seeds auto, at {first} "
            f"seeds; give --max-seeds {2 * first} or more"
        )
    if SUITE not in suites:
        raise RequestError(
            f"--seeds auto decides by test accuracy, but the suite {SUITE!r} is not requested; "
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
    return Sequential(resolve, interim_analyses(first, most))


def refuse_other_analyses(study: str, asked: Sequential, before: Mapping[str, Any]) -> None:
    """Refuse to change the planned interim analyses once results may have been seen.

    The error rate holds only for a single plan.

    Args:
        before: the study's last request; empty if there was none.

    Raises:
        RequestError: the study was planned with other analyses.
    """
    first = before.get("sequential", {}).get("seeds", list(asked.seeds))
    if list(asked.seeds) == first:
        return
    then, now = (", ".join(map(str, seeds)) for seeds in (first, asked.seeds))
    raise RequestError(
        f"study {study!r} has its interim analyses planned at {then} seeds; to analyse at {now} "
        f"instead, now that results are there, would break the error rate: give --max-seeds "
        f"{first[-1]} and a preset of {first[0]} seeds again, or --study another name"
    )


def add_seeds(
    asked: Sequential,
    analyse: Callable[[Sequential, int], Iterable[Compared[Any]] | None],
    emit: Callable[[str], None],
) -> Sequential:
    """Run one interim analysis after another until all is decided or the limit is reached.

    Args:
        analyse: gets the rule after the previous analysis and a number n of seeds, trains every
            router with seeds 0 to n - 1 and returns the comparisons declared beforehand, or None
            if it was interrupted.
        emit: gets a sentence on the progress after each analysis.
    """
    for number in asked.seeds:
        comparisons = analyse(asked, number)
        if comparisons is None:
            break
        asked = asked.after(number, comparisons)
        emit(sentence(asked))
        if asked.over:
            break
    return asked


def sentence(asked: Sequential) -> str:
    """Describe the progress after an interim analysis."""
    progress = f"{asked.taken} seeds: {asked.decided} of {asked.compared} differences decided"
    if not asked.over:
        return f"{progress}; on to {asked.next} seeds"
    end = "that is all" if asked.decided == asked.compared else "this is the limit"
    return f"{progress}; {end}"
