"""Gates: whether their entropy moved away from its initial value, or they hardly learned."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log2

import pandas as pd

from report.cells import INTERVALS, LEAD, listed, mean_cell, measured, measured_by, metric_row
from report.conditions import Entry, System
from report.study import StudyData
from report.table import MISSING, Column, Lacking, captioned, number, text_columns, words
from report.topics.make import Contents, as_table

HARDLY = 0.05
"""A gate has hardly moved if H_s changes by less than this share of log2 E in every layer."""
FROZEN = System("frozen")
"""A router whose gate is never trained: its H_s changes only because the tokens do."""
OF = "gates"


@dataclass(frozen=True)
class GateChange:
    """The change of a gate's entropy in training.

    Attributes:
        start, end: H_s by seed, in bits, averaged over the MoE layers; only seeds with both.
        largest: the largest change of any layer, averaged over seeds, as a share of log2 E.
    """

    start: pd.Series
    end: pd.Series
    largest: float


Changes = Mapping[Entry, GateChange | None]
"""The change of each entry's gates; None if their start is not known."""
NULL, STILL, AS_FROZEN, MOVED = "null model", "hardly moved", "no further than frozen", "moved"


def verdict(study: StudyData, entry: Entry, changes: Changes) -> str:
    """Return in words whether an entry's gate moved; its change must be known."""
    change = changes[entry]
    assert change is not None
    if study.families.get(entry.system.router) == "null":
        return NULL
    if change.largest < HARDLY:
        return STILL
    frozen = study.entry(FROZEN, entry.condition)
    untrained = None if frozen is None else changes.get(frozen)
    if untrained is not None and change.largest <= untrained.largest:
        return AS_FROZEN
    return MOVED


def gate_changes(study: StudyData, entries: Iterable[Entry]) -> Changes:
    """Return the change of the gates of entries and of `frozen` under the same conditions."""
    frozen = {study.entry(FROZEN, entry.condition) for entry in entries} - {None}
    return {e: gate_change(study, e) for e in dict.fromkeys([*entries, *frozen]) if e}


def gate_change(study: StudyData, entry: Entry) -> GateChange | None:
    """Return the change of an entry's gate entropy, or None if its start is not known."""
    rows = study.rows("H_s", entry)
    of_gates = rows["where"].map(lambda where: where.get("of") == OF).astype(bool)
    at_start = rows[of_gates & (rows["step"] == 0) & (rows["split"] == "test")]
    numbers = study.trials_of(entry)["num_experts"].dropna()
    if at_start.empty or numbers.empty or numbers.iloc[0] < 2:
        return None
    by_place = {
        None if pd.isna(layer) else int(layer): own.set_index("seed")["value"].sort_index()
        for layer, own in at_start.groupby("layer", dropna=False)
    }
    ends = {layer: study.final("H_s", entry, layer, of=OF) for layer in by_place}
    changes = {layer: (ends[layer] - start).dropna() for layer, start in by_place.items()}
    layers = [abs(own.mean()) for layer, own in changes.items() if layer is not None and len(own)]
    if not layers:
        return None
    seeds = changes[None].index
    return GateChange(
        start=by_place[None][seeds],
        end=ends[None][seeds],
        largest=float(max(layers)) / log2(int(numbers.iloc[0])),
    )


COLUMNS = (
    *LEAD,
    Column("start", "H_s at the start", "bit"),
    Column("end", "H_s at the end", "bit"),
    Column("change", "change", "bit"),
    Column("largest", "largest of a layer", "% of log2 E", scale=100, digits=1),
    *text_columns("gate"),
)


@as_table("gates", "Whether the gates have learned", "entropy")
def table(study: StudyData) -> Contents:
    """Make a row for each router and condition."""
    entries, rows = measured_by(study, "entropy"), []
    changes = gate_changes(study, entries)
    if not any(changes[entry] for entry in entries):
        raise Lacking("the entropy of no gate was measured before its first step (suite entropy)")
    for entry in entries:
        change = changes[entry]
        if change is None:
            cells = [words(MISSING) for _ in COLUMNS[len(LEAD) :]]
        else:
            trials = study.behind(entry, change.start.index)
            means = (change.start, change.end, change.end - change.start)
            cells = [
                *(mean_cell(study, entry, by_seed) for by_seed in means),
                number(change.largest, trials=trials),
                words(verdict(study, entry, changes), trials=trials),
            ]
        rows.append(metric_row(study, entry, cells))
    caption = captioned(
        "H_s: mean entropy of a token's gates, mean over the MoE layers; before the first step on "
        f"the first images of the test split, at the end on all of it. {INTERVALS} Largest of a "
        "layer: the largest mean change of any MoE layer.",
        f"A gate has hardly moved if that is below {100 * HARDLY:g} %, and hardly learned if it "
        "went no further than that of frozen, whose gate is never trained: H_s also changes with "
        "the tokens. Such comparisons are of initialisations, not of routers. The gates of null "
        "models are not meant to learn.",
    )
    return caption, COLUMNS, rows


def sentence(study: StudyData) -> str:
    """Return a sentence on the routers whose gates have hardly moved, or "" if none have."""
    still = []
    entries = measured(study, "entropy")
    changes = gate_changes(study, entries)
    for entry in entries:
        if changes[entry] and verdict(study, entry, changes) in (STILL, AS_FROZEN):
            condition = f" ({entry.condition})" if entry.condition else ""
            still.append(f"{entry.system}{condition}")
    if not still:
        return ""
    return (
        "Gates that have hardly moved (the entropy of their choices changed in no MoE layer by "
        f"{100 * HARDLY:g} % of log2 E, or no further than that of frozen): "
        f"{listed(still, table.name)}. They may have learned little, and comparisons with them are "
        "then of initialisations, not of routers."
    )
