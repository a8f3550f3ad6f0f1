"""Paired differences in test accuracy: to each null, the best router and the next one below."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np

from report import undertrained
from report.cells import sentence_on_analyses
from report.comparisons import METRIC, Comparison, against_best, against_nulls, comparisons, nulls
from report.conditions import Entry
from report.study import StudyData
from report.table import (
    MISSING,
    SEVERAL,
    Cell,
    Column,
    Lacking,
    Row,
    captioned,
    number,
    text_columns,
    words,
)
from report.topics.make import Contents, as_table
from results.conditions import Condition
from results.statistics.comparisons import NULLS
from results.statistics.means import ALPHA, effect_size, seeds_needed, superiority
from results.text import counted

COLUMNS = (
    *text_columns("router", "condition", "reference", n="pairs"),
    Column("difference", "difference in top-1", "points", scale=100),
    Column("p", "p", digits=3, p_value=True),
    Column("p_family", "p (family)", digits=3, p_value=True),
    Column("effect_size", "d_z"),
    Column("superiority", "superiority"),
    Column("correlation", "correlation"),
    *text_columns("verdict"),
)


@as_table("differences_nulls", "Paired differences to the nulls", "accuracy")
def to_nulls(study: StudyData) -> Contents:
    """Compare each router with the nulls it has to beat; say how to add missing standard ones."""
    compared, routers = against_nulls(study), {system.router for system in study.systems}
    lacking = ", ".join(name for name in NULLS if name not in routers)
    hint = f"Without {lacking}: add them to the preset or in --routers." if lacking else ""
    if not compared:
        raise Lacking(f"the study has no router and null to compare. {hint}".strip(" ."))
    return _contents(study, compared, hint)


@as_table("differences_best", "Paired differences to the best router", "accuracy")
def to_best(study: StudyData) -> Contents:
    """Compare every other router with the best one."""
    compared = against_best(study)
    if not compared:
        raise Lacking("there is no second router to compare")
    note = (
        "The reference was chosen after seeing the results, which favours it. Tests and intervals "
        "hold nevertheless, since they do so for all pairs of routers at once, but the differences "
        "are biased towards it."
    )
    return _contents(study, compared, note)


def sentence_on_n(compared: Sequence[Comparison]) -> str:
    """Say how wide intervals are at this number of seeds, and what follows for the tests."""
    differences = [c.difference for c in compared if c.difference]
    halves = [(d.high - d.low) / 2 for d in differences if d.low is not None and d.high is not None]
    pairs = sorted({difference.n for difference in differences})
    if not halves:
        return "With one seed there is no interval and no test: nothing here is resolved."
    n = f"n = {pairs[0]}" if len(pairs) == 1 else f"n from {pairs[0]} to {pairs[-1]}"
    few = ": too few seeds to resolve small differences" if pairs[-1] < 5 else ""
    return f"With {n}, these intervals are ± {100 * median(halves):.2f} points (median){few}."


def sentence_on_noise(compared: Sequence[Comparison]) -> str:
    """Say how the scatter was estimated, and which systems are judged only by their own."""
    if not any(c.degrees for c in compared):
        return ""
    shares = [c.share for c in compared if c.share is not None]
    if not shares:
        return "With only two systems this is the paired t test."
    noisy = dict.fromkeys(entry for c in compared for entry in c.noisy)
    low, high = (f"{100 * end:.0f}" for end in (min(shares), max(shares)))
    between = low if low == high else f"{low} to {high}"
    sentence = (
        "Scatter: from all systems of the condition, with seeds as blocks; the share of a system's "
        f"own estimate is {between} %, and larger if the systems differ more."
    )
    if not noisy:
        return sentence
    names = ", ".join(each.full_label for each in noisy)
    return (
        f"{sentence} The scatter of {names} is larger than chance allows (F test): there the "
        "method falls back on the system's own estimate alone."
    )


def sentence_on_few_routers(study: StudyData, compared: Sequence[Comparison]) -> str:
    """Say that nulls count as routers, or return "" if there are enough routers."""
    with_nulls = [c.largest for c in compared if study.is_baseline(c.reference.system)]
    if all(each is None or each.nulls or each.routers < 3 for each in with_nulls):
        return ""
    return (
        "With fewer than three routers the method falls back on the largest |t| of all pairs, "
        "nulls included."
    )


def _contents(study: StudyData, compared: Sequence[Comparison], note: str) -> Contents:
    sizes = sorted({c.family for c in compared})
    tests = counted(sizes[0], "test") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} tests"
    each = " of each condition" if len(study.conditions) > 1 else ""
    points = counted(100 * (study.smallest_of_interest or 0), "point")
    summary = (
        "Router minus reference in percentage points of top-1, mean over the seeds that both have, "
        f"± half of its simultaneous 95 % interval. Resolved: p (family) < {ALPHA}, or, "
        f"equivalently, the interval excludes 0. {sentence_on_n(compared)}"
    )
    details = (
        "Simultaneous: all intervals of the family hold at once. The family was declared before "
        "training: every router against each null and all pairs of routers, "
        f"{tests}{each}. p: two-sided, of this difference alone. p (family): the probability of "
        "a |t| this large anywhere in the family if all its systems were equal.",
        sentence_on_noise(compared),
        sentence_on_few_routers(study, compared),
        ""
        if study.smallest_of_interest is None
        else f"Not resolved, but smaller than {points}: its interval lies within ± {points}.",
        "d_z: the mean over the standard deviation of the differences, with "
        "Hedges' correction. Superiority: the probability that a run of the router beats one of "
        "the reference, ties half. Correlation: of the pairs.",
        sentence_on_analyses(study),
        undertrained.caption(study, compared),
        note,
    )
    rows = []
    for c in compared:
        values = (
            c.difference.p_value if c.difference else None,
            c.adjusted,
            effect_size(c.differences),
            superiority(list(c.ours), list(c.theirs)),
            c.difference.correlation if c.difference else None,
        )
        cells = [_difference_cell(study, c), *_numbers(study, c, *values)]
        rows.append(_row(study, c, cells))
    return captioned(summary, *details), COLUMNS, rows


def _row(study: StudyData, comparison: Comparison, cells: Sequence[Cell]) -> Row:
    """Make a row with the names of both sides, the cells and the verdict."""
    n = comparison.difference.n if comparison.difference else 0
    names = comparison.entry.label, comparison.condition.label, comparison.reference.label, str(n)
    whole = (*map(words, names), *cells, words(undertrained.verdict(study, comparison)))
    return Row(whole, n, comparison.entry, (comparison.condition,), comparison.reference)


def _difference_cell(study: StudyData, comparison: Comparison) -> Cell:
    difference = comparison.difference
    if difference is None:
        return words(MISSING)
    ends = difference.low, difference.high
    return Cell(difference.mean, *ends, difference.n, trials=comparison.trials(study))


def _numbers(study: StudyData, comparison: Comparison, *values: float | None) -> list[Cell]:
    """Show numbers of a comparison, as missing if it has no seed in common."""
    if comparison.difference is None:
        return [words(MISSING) for _ in values]
    n, trials = comparison.difference.n, comparison.trials(study)
    return [number(value, n, trials) for value in values]


def null_cells(study: StudyData, compared: Sequence[Comparison], entry: Entry) -> list[Cell]:
    """Show the paired difference of a router to each null; empty for a null itself."""
    own = [c for c in compared if c.entry == entry]
    by_null = {n: {c.reference: c for c in own if c.reference.system == n} for n in nulls(study)}
    return [_null_cell(study, list(each.values()), entry) for each in by_null.values()]


def null_caption(study: StudyData) -> str:
    """Return a sentence that explains the columns of `null_cells`, or "" if there are none."""
    names = ", ".join(null.label for null in nulls(study))
    return names and (
        f"Over {names}: mean paired difference in top-1 over the seeds that both have, ± half of "
        "its simultaneous 95 % interval; it is resolved if that excludes 0 (tests: paired "
        "differences to the nulls)."
    )


def _null_cell(study: StudyData, compared: Sequence[Comparison], entry: Entry) -> Cell:
    """Show the difference; `several` if a router without a swept setting has many to one null."""
    if len(compared) > 1:
        return words(SEVERAL)
    if not compared or compared[0].difference is None:
        return words("" if study.is_baseline(entry.system) else MISSING)
    return _difference_cell(study, compared[0])


MANY = 1000
"""A larger number of seeds is not spelt out, since nobody trains that many."""

SEED_COLUMNS = (
    *text_columns("router", "condition", reference="the next below", n="pairs"),
    Column("gap", "gap in top-1", "points", scale=100),
    Column("deviation", "SD of differences", "points", scale=100),
    *text_columns(alone="seeds, one test", family="seeds, family", verdict="verdict"),
)


@as_table("seeds", "Seeds that would resolve a gap", "accuracy")
def seeds_table(study: StudyData) -> Contents:
    """Make a row for each two neighbours in the ranking of each condition."""
    compared = [c for condition in study.conditions for c in neighbours(study, condition)]
    if not any(len(c.seeds) > 1 for c in compared):
        raise Lacking("no two routers have two seeds in common")
    rows = []
    for comparison in compared:
        difference, seeds = comparison.difference, len(comparison.seeds)
        deviation = float(np.std(comparison.differences, ddof=1)) if seeds > 1 else None
        needed = (
            seeds_needed(comparison.differences),
            comparison.seeds_needed(study.planned_analyses),
        )
        counts = [number_of_seeds(number) or MISSING for number in needed]
        cells = _numbers(study, comparison, difference.mean if difference else None, deviation)
        cells += [words(count, trials=comparison.trials(study)) for count in counts]
        rows.append(_row(study, comparison, cells))
    analyses = (
        "" if study.planned_analyses == 1 else f" and {study.planned_analyses} interim analyses"
    )
    caption = (
        "Routers by mean top-1, each with the next below it. The number of seeds at which a gap of "
        "this size is found with a probability of 80 %, if the observed mean and standard "
        f"deviation are the true ones: by a paired t test of these two alone at {ALPHA}, and by "
        f"the test of the family{analyses}, which decides, with the deviation that it estimates. "
        "With few pairs the deviation is itself uncertain, and so is the number."
    )
    return caption, SEED_COLUMNS, rows


def neighbours(study: StudyData, condition: Condition) -> list[Comparison]:
    """Return each router minus the next below it by mean accuracy, without nulls, best first."""
    by_pair = {(c.entry, c.reference): c for c in comparisons(study) if c.condition == condition}
    entries = [e for e in study.under(condition) if not study.is_baseline(e.system)]
    measured = [entry for entry in entries if len(study.final(METRIC, entry))]
    ordered = sorted(measured, key=lambda e: study.final(METRIC, e).mean(), reverse=True)
    return [
        by_pair[pair] if pair in by_pair else by_pair[pair[::-1]].turned()
        for pair in pairwise(ordered)
    ]


def number_of_seeds(needed: int | None) -> str:
    """Return a number of seeds as text, or "" if it is unknown."""
    if needed is None:
        return ""
    return str(needed) if needed <= MANY else f"> {MANY:,}"
