"""Timings: a row for each router on each machine at each setting."""

from __future__ import annotations

from report.parts import Absent
from report.study import StudyData
from report.tables.table import DISTURBED, MISSING, Cell, Column, Row, Table, assemble, words
from report.timings import PASSES, Timing, timings

NAME, TITLE = "throughput", "Throughput"
CAPTION = (
    "Each row is one layer or model with untrained weights on one machine (n = 1); machines are "
    "never pooled. Median and 90th percentile over the repeats. Overhead: median time over that of "
    "the dense counterpart, timed in turn with it in one process (of a layer: a dense MLP that "
    "runs the same expert FLOPs; of a model: the same model without MoE layers), with its 95 % "
    "bootstrap interval over the repeats. fwd: forward; train: forward and backward. Others: cores "
    "that other processes kept busy meanwhile."
)
WORDS = ("router", "condition", "machine", "what", "sizes", "threads")
NUMBERS = (
    Column("forward_ms", "fwd median", "ms", "lower"),
    Column("forward_ms_p90", "fwd p90", "ms", "lower"),
    Column("forward_overhead", "fwd overhead", "×", "lower"),
    Column("train_ms", "train median", "ms", "lower"),
    Column("train_ms_p90", "train p90", "ms", "lower"),
    Column("train_overhead", "train overhead", "×", "lower"),
    Column("images_per_s", "images", "/s", "higher", si=True),
    Column("tokens_per_s", "tokens", "/s", "higher", si=True),
    Column("peak_memory_bytes", "peak memory", "B", "lower", si=True),
    Column("router_forward_ms", "router fwd", "ms", "lower"),
    Column("forward_repeats", "fwd repeats", digits=0),
    Column("train_repeats", "train repeats", digits=0),
    Column("other_load", "fwd others", "cores", "lower"),
    Column("train_other_load", "train others", "cores", "lower"),
)


def table(study: StudyData) -> Table | Absent:
    """A row for each timing."""
    found = timings(study)
    if not found:
        return Absent(NAME, TITLE, "no layer of this study was timed (suite throughput)")
    columns = [Column(name, name, words=True) for name in WORDS]
    rows = [_row(timing) for timing in found]
    return assemble(NAME, TITLE, CAPTION, [*columns, *NUMBERS], rows)


def sentence(study: StudyData) -> str:
    """How many timings other processes disturbed; "" where they disturbed none."""
    keys = [f"{name}_ms" for name in PASSES]
    made = [(timing, key) for timing in timings(study) for key in keys if key in timing.values]
    disturbed = sum(timing.is_disturbed(key) for timing, key in made)
    if not disturbed:
        return ""
    return (
        f"Of {len(made)} timings {disturbed} were taken while other processes kept the machine "
        f"busy ({DISTURBED}): compare them with care."
    )


def _row(timing: Timing) -> Row:
    setting, entry = timing.setting, timing.entry
    told = [entry.router, entry.condition.label, setting.machine, setting.title, setting.sizes]
    cells = [words(text) for text in (*told, str(setting.threads))]
    cells += [number(timing, column.key) for column in NUMBERS]
    return Row(tuple(cells), 1, entry)


def number(timing: Timing | None, key: str) -> Cell:
    """A number of a timing with its interval, where it has one."""
    if timing is None or key not in timing.values:
        return words(MISSING)
    value = timing.values[key]
    ends = timing.values.get(f"{key}_low"), timing.values.get(f"{key}_high")
    marks = (DISTURBED,) if timing.is_disturbed(key) else ()
    return Cell(
        value, *ends, n=1, marks=marks, bracketed=True, trials=(timing.layer,), values=(value,)
    )
