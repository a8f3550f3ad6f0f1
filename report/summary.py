"""The summary at the top of a report: what was compared, what is best, and whether that is sure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from report.comparisons import METRIC, SUITE, Comparison, against_best, against_nulls, best
from report.entries import Entry
from report.older import older_sentence
from report.study import StudyData
from report.tables.differences import sentence_on_n
from report.tables.seeds import MANY
from report.tables.table import Cell, Column, summary
from results.statistics import seeds_needed

POINTS = Column("difference", "difference", scale=100)
SHARE = Column("top1", "top-1", scale=100, digits=1)


@dataclass(frozen=True)
class Finding:
    """The best router under one condition, in sentences. `resolved`: its lead over all is sure.

    `trials` are the fingerprints of those behind its accuracy.
    """

    condition: str
    router: str
    accuracy: str
    sentences: tuple[str, ...]
    resolved: bool
    trials: tuple[str, ...]


def compared(study: StudyData) -> str:
    """What was compared, in one sentence."""
    trials = study.trials
    routers = [name for name in study.routers if not study.is_baseline(name)]
    baselines = [name for name in study.routers if study.is_baseline(name)]
    beside = f" and {_counted(len(baselines), 'baseline')} ({', '.join(baselines)})"
    what = _counted(len(routers), "router") + (beside if baselines else "")
    if trials.empty:
        return f"{what}, as bare layers: nothing was trained."
    seeds = trials.groupby(["router", "condition"])["seed"].nunique()
    least, most = int(seeds.min()), int(seeds.max())
    told = _counted(most, "seed") if least == most else f"{least} to {most} seeds"
    data, models = (", ".join(sorted(trials[column].unique())) for column in ("data", "model"))
    conditions = len(study.conditions)
    under = f", under {conditions} conditions" if conditions > 1 else ""
    return f"{what} on {data} with {models}{under}; {told} each, {_outcomes(study)}."


def findings(study: StudyData) -> list[Finding]:
    """The best router under each condition; none where nothing finished."""
    to_best, to_nulls = against_best(study), against_nulls(study)
    found = ((condition, best(study, condition)) for condition in study.conditions)
    return [
        _finding(study, condition, winner, to_best, to_nulls)
        for condition, winner in found
        if winner is not None
    ]


def _finding(
    study: StudyData,
    condition: str,
    winner: Entry,
    to_best: list[Comparison],
    to_nulls: list[Comparison],
) -> Finding:
    here = [c for c in to_best if c.condition == condition and c.difference]
    behind = sorted(here, key=lambda c: c.theirs.mean() - c.ours.mean())
    over = [c for c in to_nulls if c.condition == condition and c.entry == winner and c.difference]
    sentences = [_lead(behind)]
    sentences += [_gap("the next, ", c.turned()) + _seeds(c) for c in behind[:1]]
    sentences += [_gap("", c) for c in over]
    sentences.append(sentence_on_n(behind) if behind else "")
    sentences.append(older_sentence(study, study.under(condition), [SUITE]))
    values = study.final(METRIC, winner)
    trials = study.behind(winner, values.index)
    cell = summary(list(values), trials=trials, confidence=study.confidence)
    return Finding(
        condition=condition,
        router=winner.router,
        accuracy=_accuracy(cell),
        sentences=tuple(filter(None, sentences)),
        resolved=bool(behind) and all(c.resolved and _behind(c) for c in behind),
        trials=cell.trials,
    )


def _lead(behind: list[Comparison]) -> str:
    if not behind:
        return "There is nothing to compare it with."
    if all(c.adjusted is None for c in behind):
        return ""
    sure = sum(c.resolved and _behind(c) for c in behind)
    return f"Its lead is resolved over {sure} of {len(behind)} (paired t tests, Holm's correction)."


def _gap(what: str, comparison: Comparison) -> str:
    """By how much the winner leads in a comparison."""
    difference = comparison.difference
    assert difference is not None
    ends = [end for end in (difference.low, difference.high) if end is not None]
    told = " to ".join(map(POINTS.number, ends))
    interval = f", 95 % interval {told}" if told else ""
    verdict = "resolved" if comparison.resolved else comparison.verdict
    lead = f"Lead over {what}{comparison.reference.router}: {POINTS.number(difference.mean)} points"
    return f"{lead}{interval} (n = {difference.n}): {verdict}."


def _seeds(comparison: Comparison) -> str:
    """How many seeds would resolve a lead that is not."""
    needed = seeds_needed(comparison.differences)
    if comparison.resolved or comparison.is_small or needed is None:
        return ""
    told = f"about {needed} seeds" if needed <= MANY else f"more than {MANY:,} seeds"
    return f" A gap such as this one takes {told} to resolve (80 % power, one test alone)."


def _behind(comparison: Comparison) -> bool:
    return comparison.difference is not None and comparison.difference.mean < 0


def _accuracy(cell: Cell) -> str:
    assert cell.value is not None
    half = "" if cell.low is None or cell.high is None else SHARE.number((cell.high - cell.low) / 2)
    interval = f" ± {half}" if half else ""
    return f"{SHARE.number(cell.value)}{interval} % (n = {cell.n})"


def _outcomes(study: StudyData) -> str:
    """How the trials ended: `24 trials: 23 done, 1 diverged`."""
    statuses = Counter(study.trials["status"].str.replace("_", " "))
    told = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    return f"{_counted(len(study.trials), 'trial')}: {told}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
