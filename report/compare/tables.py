"""A comparison of two sides for readers: its tables, its notes, and their files."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from report.compare import Change, Comparison, listed
from report.compare.changes import Section, what_changed
from report.compare.sides import FEW_SHOT, FORWARD, LOAD, TOP1, TRAINING, WAS_DISTURBED, Side
from report.conditions import Entry, closest_layer
from report.render import to_markdown
from report.table import DISTURBED, Cell, Column, Row, Table, assemble, number, text_columns, words
from results import Store
from results.statistics.means import ALPHA
from results.text import counted

COLUMNS = (
    *text_columns("router", "condition", n="pairs"),
    Column("a", "A", "%", scale=100),
    Column("b", "B", "%", scale=100),
    Column("difference", "B − A", "points", scale=100),
    Column("p", "p", digits=3, p_value=True),
    Column("p_family", "p (family)", digits=3, p_value=True),
    *text_columns("verdict"),
)
PLAIN = {FEW_SHOT: ("few-shot", "points", 100.0), TRAINING: ("training", "s", 1.0)}
PLAIN |= {LOAD: ("load CV", "", 1.0)}
"""The name, unit and scale of each metric that is not tested."""
PLAIN_COLUMNS = (
    *text_columns("router", "condition", "metric", n="pairs"),
    *(Column(key, label, digits=3) for key, label in (("a", "A"), ("b", "B"))),
    Column("difference", "B − A", digits=3),
)
HEADS = (
    *("router", "condition", "metric", "pairs", "a", "b", "difference", "low", "high"),
    *("p", "p_family", "verdict"),
)
SETTING = ("scope", "shape", "batch")
"""What distinguishes timings: the shape of a layer, the batch of a whole model."""
Time = tuple[float, bool]
"""The median of `forward_ms`, and whether other processes disturbed it."""
Timed = tuple[Entry, float, float, bool]
"""A system, its times at one setting on both sides, and whether either was disturbed."""


@dataclass(frozen=True)
class Compared:
    """A comparison, ready to be shown.

    Attributes:
        top1: the paired differences; None if no system has a top-1.
        plain: rows of `PLAIN_COLUMNS`: the other metrics, for systems with values on both sides.
        notes: what only one side has, and what cannot be compared.
        changed: what changed between the sides.
    """

    a: str
    b: str
    changes: Sequence[Change]
    top1: Table | None
    plain: Sequence[Row]
    notes: Sequence[str]
    changed: Sequence[Section]


def show(store: Store, made: Comparison) -> Compared:
    """Return a comparison's tables and notes."""
    changes, (setting, times) = made.changes(), timed(made)
    rows = [_row(change) for change in changes]
    title = f"{made.b.label} against {made.a.label}"
    table = assemble("compare", title, _caption(changes), COLUMNS, rows) if rows else None
    return Compared(
        a=made.a.label,
        b=made.b.label,
        changes=changes,
        top1=table,
        plain=list(_plain(made, times)),
        notes=list(_notes(made, changes, setting, times)),
        changed=what_changed(store, made),
    )


def _row(change: Change) -> Row:
    made, n = change.difference, len(change.seeds)
    trials = tuple(each[seed].trial for each in (change.b, change.a) for seed in change.seeds)
    means = [number(change.mean(side), n, trials) for side in (change.a, change.b)]
    cell = Cell(made.mean, made.low, made.high, n, trials=trials) if made else number(None)
    tested = made if change.tests else None
    p_values = (tested.p_value if tested else None, change.adjusted)
    labels = (change.entry.label, change.entry.condition.label, str(n))
    cells = (*map(words, labels), *means, cell, *map(number, p_values), words(change.verdict))
    return Row(cells, n, change.entry)


def _caption(changes: Sequence[Change]) -> str:
    tests = max((change.tests for change in changes), default=0)
    sentence = "Mean top-1 on the test images over the seeds that both have, and B − A."
    if not tests:
        return f"{sentence} Nothing is tested: no system has two pairs of its own on both sides."
    return (
        f"{sentence} ±: half of its simultaneous 95 % interval. p: paired t test over seeds, "
        f"two-sided. p (family): corrected for {counted(tests, 'test')} (Bonferroni), "
        f"which decides: resolved means p (family) < {ALPHA}, or, equivalently, that the "
        "interval excludes 0."
    )


def _plain(made: Comparison, times: Sequence[Timed]) -> Iterator[Row]:
    for metric, (name, unit, scale) in PLAIN.items():
        shown = f"{name} ({unit})" if unit else name
        for change in made.changes(metric):
            a, b = change.mean(change.a), change.mean(change.b)
            if change.seeds and a is not None and b is not None:
                yield _plain_row(change.entry, shown, len(change.seeds), scale * a, scale * b)
    for entry, a, b, disturbed in times:
        yield _plain_row(entry, "forward (ms)", None, a, b, *[DISTURBED] * disturbed)


def _plain_row(entry: Entry, name: str, n: int | None, a: float, b: float, *marks: str) -> Row:
    labels = (entry.label, entry.condition.label, name, str(n or ""))
    return Row((*map(words, labels), number(a), number(b), Cell(b - a, marks=marks)), n, entry)


def timed(made: Comparison) -> tuple[str, list[Timed]]:
    """Return the setting that most systems were timed at on both sides, and their times.

    The setting includes the machine, which must be the same. Layers take precedence over whole
    models. The setting is "" if both sides timed nothing on a common machine.
    """
    a, b = _times(made, made.a), _times(made, made.b)
    both = {s: [e for e in made.entries if e in a[s] and e in b[s]] for s in a if s in b}
    shared = {setting: entries for setting, entries in both.items() if entries}
    chosen = max(shared, key=lambda s: ("layer" in s, len(shared[s]), s), default="")
    pairs = [(e, a[chosen][e], b[chosen][e]) for e in shared.get(chosen, [])]
    return chosen, [(e, ours[0], theirs[0], ours[1] or theirs[1]) for e, ours, theirs in pairs]


def _times(made: Comparison, side: Side) -> dict[str, dict[Entry, Time]]:
    rows = made.layers(side)
    disturbed = {
        (row.trial, row.machine, _setting(json.loads(row.where)))
        for row in rows[(rows["metric"] == WAS_DISTURBED) & (rows["value"] == 1)].itertuples()
    }
    by_setting: dict[str, dict[Entry, Time]] = defaultdict(dict)
    for row in rows[rows["metric"] == FORWARD].itertuples():
        where = json.loads(row.where)
        if where.get("quantile") == 0.5:
            place = _setting(where)
            name = f"{place}, on {row.machine_name} ({row.machine[:6]})"
            time = row.value, (row.trial, row.machine, place) in disturbed
            by_setting[name][made.named[row.trial]] = time
    return {
        setting: {
            entry: times[layer]
            for entry in made.systems(side)
            if (layer := closest_layer(times, entry)) is not None
        }
        for setting, times in by_setting.items()
    }


def _setting(where: dict[str, object]) -> str:
    return ", ".join(f"{key} {where[key]}" for key in SETTING if key in where)


def _notes(
    made: Comparison, changes: Sequence[Change], setting: str, times: Sequence[Timed]
) -> Iterator[str]:
    """Yield sentences on what only one side has and what is not compared."""
    for name, side in (("A", made.a), ("B", made.b)):
        if only := made.only(side):
            yield f"Only {name} has {listed(only)}."
    alone: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for change in changes:
        for name, own, other in (("A", change.a, change.b), ("B", change.b, change.a)):
            if numbers := sorted(own.keys() - other.keys()):
                alone[f"Only {name} has a result of", _seeds(numbers)].append(change.entry)
        if change.shared and not change.is_same:
            alone["Left out, since both sides share the trial:", _seeds(change.shared)].append(
                change.entry
            )
    for (what, seeds), entries in alone.items():
        systems = "all systems" if len(entries) == len(changes) > 1 else listed(entries)
        yield f"{what} {seeds}: {systems}."
    measured = {change.entry for change in changes}
    if lacking := [entry for entry in made.entries if entry not in measured]:
        yield f"Neither has a top-1 of {listed(lacking)}."
    if times:
        yield f"forward: median of forward_ms, {setting}."
    if any(disturbed for *_, disturbed in times):
        yield f"{DISTURBED}: other processes kept the machine busy while it was timed."
    sides = (side.metrics["metric"].isin([TRAINING, FORWARD]) for side in (made.a, made.b))
    a, b = (set(s.metrics[own]["machine"]) for s, own in zip((made.a, made.b), sides, strict=True))
    if a and b and a != b:
        yield "Times are compared only if both were taken on one machine."


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def plain_table(shown: Compared) -> Table | None:
    """Return a table with one row per system and metric, or None if there are no rows."""
    caption = "Means over the seeds that both have, not tested."
    rows = shown.plain
    return assemble("plain", "Other metrics", caption, PLAIN_COLUMNS, rows) if rows else None


def write(shown: Compared, folder: Path) -> tuple[Path, Path]:
    """Write `compare.md` and `compare.csv` into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "compare.md", folder / "compare.csv"
    for file, text in zip(files, (_markdown(shown), _csv(shown)), strict=True):
        file.write_text(text, encoding="utf-8")
    return files


def _markdown(shown: Compared) -> str:
    parts = [f"# {shown.b} against {shown.a}", f"A is `{shown.a}`, B is `{shown.b}`."]
    parts += [to_markdown(table).strip() for table in (shown.top1, plain_table(shown)) if table]
    if shown.notes:
        parts.append("\n".join(f"- {note}" for note in shown.notes))
    parts.append("## What changed")
    for heading, lines in shown.changed:
        parts.append("\n".join([f"### {heading}", "", *(f"- {line}" for line in lines)]))
    return "\n\n".join(parts) + "\n"


def _csv(shown: Compared) -> str:
    """Return one line per system and metric: top-1 as a share, others as in `compare.md`."""
    rows: list[Sequence[object]] = []
    for change in shown.changes:
        made, tested = change.difference, change.difference if change.tests else None
        system = (change.entry.label, change.entry.condition.label, TOP1, len(change.seeds))
        means = (change.mean(change.a), change.mean(change.b), made and made.mean)
        interval = (made and made.low, made and made.high, tested and tested.p_value)
        rows.append((*system, *means, *interval, change.adjusted, change.verdict))
    for row in shown.plain:
        cells = [cell.words if cell.value is None else cell.value for cell in row.cells]
        rows.append((*cells, *[None] * 4, "not tested"))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADS, *rows])
    return text.getvalue()
