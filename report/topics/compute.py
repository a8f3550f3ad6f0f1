"""The compute that each router actually spent, and rankings by it."""

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from statistics import fmean

from report.cells import INTERVALS, LEAD, lead, listed, mean_cell, metric_cell, metric_row
from report.conditions import Entry
from report.study import StudyData
from report.table import MISSING, Cell, Column, Lacking, Row, captioned, text_columns, words
from report.timings import machine_names
from report.topics.budgets import OrderChange, Standing, order_changes, require_rivals, standings
from report.topics.make import Contents, as_table
from results.conditions import Condition
from results.statistics.ranks import ALIKE
from results.text import counted

MATCHED = {
    "total_flops": "the FLOPs of a training, from which the number of steps follows",
    "step_flops": "the FLOPs of a training step, by the width of the experts",
    "params": "the parameters of the model, by the width of the experts",
    "wall_clock": "the seconds of a training",
    "steps": "only the number of steps",
}
COLUMNS = (
    Column("budget_error", "off budget", "%", scale=100, digits=2),
    Column("train_flops", "training", "FLOP", si=True),
    Column("step_flops", "a step", "FLOP", si=True),
    Column("steps", "steps", digits=0),
    Column("params_total", "params", si=True),
    Column("params_active", "active", si=True),
    Column("slots_per_choice", "real capacity"),
)
MORE = (
    Column("capacity_factor", "capacity asked for"),
    Column("train_seconds", "training", "s", digits=1),
    *text_columns(machine="on"),
)


@as_table("spent", "What each router really spent", "accuracy")
def table(study: StudyData) -> Contents:
    """Make a row for each router under each condition."""
    entries = [entry for entry in study.entries if not study.final("train_flops", entry).empty]
    if not entries:
        raise Lacking("no finished trial was measured by accuracy")
    rows = []
    for entry in entries:
        cells = [metric_cell(study, column.key, entry) for column in COLUMNS]
        cells += [_asked(study, entry), *_seconds(study, entry)]
        rows.append(metric_row(study, entry, cells, n=study.finished(entry)))
    summary = (
        what_is_matched(study),
        INTERVALS,
        "Seconds are of training, and depend on what else the machine did meanwhile.",
    )
    details = (
        "Off budget: what was spent of what is matched, divided by the budget, minus 1. Training "
        "and steps: forward and backward passes, as counted from what ran. Active: parameters that "
        "act on a token, on average. Real capacity: slots that the experts run per choice of a "
        "token (per token if tokens do not choose), used or not, mean over the MoE layers, "
        "outside training; asked for: the capacity factor. Seconds exclude evaluations; those of "
        "several machines are not pooled."
    )
    caption = captioned(" ".join(filter(None, summary)), details)
    return caption, (*LEAD, *COLUMNS, *MORE), rows


def what_is_matched(study: StudyData) -> str:
    """Return what is equal between the routers, or "" if the study sweeps that."""
    match = study.compute.get("match", "total_flops")
    if any("compute.match" in entry.condition.mapping for entry in study.entries):
        return ""
    return f"Equal between the routers: {MATCHED[match]}."


def _asked(study: StudyData, entry: Entry) -> Cell:
    """Show the requested capacity factor, or "" for a router without that setting."""
    trials = study.trials_of(entry)
    factors = [json.loads(options).get("capacity_factor", "") for options in trials["options"]]
    if not all(isinstance(factor, float | int) for factor in factors):
        return words("none" if None in factors else "")
    return Cell(fmean(factors), trials=tuple(trials["trial"]))


def _seconds(study: StudyData, entry: Entry) -> tuple[Cell, Cell]:
    """Return the seconds of training and the machines they were measured on."""
    trials = study.trials_of(entry)
    names = machine_names(study)
    machines = [names[machine] for machine in trials["machine"].dropna().unique()]
    if len(machines) != 1:
        return words(MISSING), words(", ".join(machines))
    return metric_cell(study, "train_seconds", entry), words(machines[0])


RANKINGS = (
    Column("rank_flops", "rank by FLOPs", better="lower", digits=0),
    Column("top1_flops", "validation top-1 at equal FLOPs", "%", "higher", 100, 1, ranked=True),
    Column("rank_seconds", "rank by seconds", better="lower", digits=0),
    Column("top1_seconds", "at equal seconds", "%", "higher", 100, 1, ranked=True),
    Column("front_parameters", "front by parameters", better="lower", digits=0),
    Column("top1_end", "at the end", "%", "higher", 100, 1, ranked=True),
    Column("params_total", "params", si=True),
)


@as_table("rankings", "Rankings under three budgets", "accuracy")
def rankings_table(study: StudyData) -> Contents:
    """Rank the routers of each condition, one row per router."""
    by_condition = _standings(study)
    rows = []
    for condition, of_condition in by_condition.items():
        for entry in study.under(condition):
            router, _, n = lead(study, entry, study.finished(entry))
            cells = [router, words(condition.label), n]
            cells += [c for standing in of_condition for c in _cells(study, standing, entry)]
            cells.append(metric_cell(study, "params_total", entry))
            rows.append(Row(tuple(cells), study.finished(entry), entry, (condition,)))
    cuts = "; ".join(_where(study, *each) for each in by_condition.items())
    summary = (
        "The same runs, cut where the shortest run of the condition ends: accuracy on the "
        f"validation split at equal FLOPs and at equal seconds, and at the end. {INTERVALS}"
    )
    details = (
        "By FLOPs and by seconds, accuracy is read off each seed's curve, linearly between two "
        f"evaluations ({cuts}). A run that was cut was not trained for that budget: its learning "
        "rate had not fully decayed. Seconds are of training alone, and depend on what else ran "
        "at the time. No run can be cut by parameters: a front holds the systems to which no other "
        "is superior, being more accurate at the end with no more parameters, or as accurate with "
        f"fewer (by more than {100 * ALIKE:g} %).",
        _sentence(by_condition),
    )
    return captioned(summary, *details), (*LEAD, *RANKINGS), rows


@as_table("order_changes", "Pairs of routers that budgets order differently", "accuracy")
def order_changes_table(study: StudyData) -> Contents:
    """Make a row for each pair of routers whose order changes, under each condition."""
    rows = []
    for condition, change in _changes(_standings(study)):
        texts = (
            *(change.entry.label, condition.label, change.other.label),
            *(", ".join(budgets) for budgets in (change.before, change.after)),
        )
        row = Row(tuple(map(words, texts)), None, change.entry, reference=change.other)
        rows.append(row)
    if not rows:
        raise Lacking("no pair changes its order", fine=True)
    caption = (
        "Pairs whose order differs between the rankings by FLOPs, by seconds and by parameters, "
        "by their means, resolved or not."
    )
    columns = text_columns(
        *("router", "condition"),
        reference="other router", before="before it by", after="after it by",
    )  # fmt: skip
    return caption, columns, rows


@lru_cache(maxsize=1)  # two tables need them
def _standings(study: StudyData) -> dict[Condition, list[Standing]]:
    """Rank the entries of each condition.

    Raises:
        Lacking: there is nothing to rank.
    """
    by_condition = {condition: standings(study, condition) for condition in study.conditions}
    require_rivals(chain.from_iterable(by_condition.values()))
    return by_condition


def _changes(
    by_condition: Mapping[Condition, list[Standing]],
) -> list[tuple[Condition, OrderChange]]:
    return [(each, change) for each, own in by_condition.items() for change in order_changes(own)]


def _cells(study: StudyData, standing: Standing, entry: Entry) -> tuple[Cell, Cell]:
    """Return the rank of an entry and the accuracy it is based on."""
    if entry not in standing.ranks:
        return words(MISSING), words(MISSING)
    accuracy = mean_cell(study, entry, standing.accuracy[entry].dropna())
    return Cell(standing.ranks[entry], n=accuracy.n, trials=accuracy.trials), accuracy


def _where(study: StudyData, condition: Condition, rankings: list[Standing]) -> str:
    """Return where a condition's curves are cut, in words."""
    by_flops, by_seconds, _ = rankings
    if by_flops.cut is None or by_seconds.cut is None:
        return f"{condition or 'here'}: no curve"
    machine = machine_names(study)[by_seconds.machine]
    cuts = f"{by_flops.cut:.3g} FLOPs, {by_seconds.cut:.3g} s on {machine}"
    return f"{condition}: {cuts}" if condition else cuts


def _sentence(by_condition: Mapping[Condition, list[Standing]]) -> str:
    """Return a sentence on the pairs whose order changes between budgets."""
    changes = [
        f"under {condition} {change}" if condition else str(change)
        for condition, change in _changes(by_condition)
    ]
    if not changes:
        return "Between these budgets no pair changes its order."
    return (
        f"Between these budgets the order of {counted(len(changes), 'pair')} changes, by their "
        f"means, resolved or not: {listed(changes, order_changes_table.name, '; ')}."
    )
