"""The A/A control: how large a difference chance alone makes, and how often it raises an alarm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from report.control import (
    Control,
    Retimed,
    controls,
    deviations,
    floor_of_all,
    raised,
    retimed,
    retimed_of,
    setting_of,
)
from report.parts import Absent
from report.study import StudyData
from report.tables.cells import sentence_on_looks
from report.tables.table import DISTURBED, MISSING, Cell, Column, Row, Table, assemble, words
from results.statistics import ALPHA
from results.text import counted

NAME, TITLE = "control", "A/A control: each router against itself"
WITHOUT = "no router was trained a second time as its own control (run --aa)"
COLUMNS = (
    Column("router", "router", words=True),
    Column("condition", "condition", words=True),
    Column("n", "pairs", words=True),
    Column("difference", "difference in top-1", "points", scale=100),
    Column("p", "p", digits=3, p_value=True),
    Column("alarm", "false alarm", "%", scale=100, digits=0),
    Column("floor", "noise floor", "points", scale=100),
    Column("forward_ms", "fwd time, twin / router", "×", digits=3, n=1),
    Column("forward_overhead", "fwd overhead, twin / router", "×", digits=3, n=1),
)
TIMED = ("forward_ms", "forward_overhead")
ALL = "all"


def table(study: StudyData) -> Table | Absent:
    """A row for each router and condition, and one for all of them."""
    found, timed = controls(study), retimed(study)
    if not found and not timed:
        return Absent(NAME, TITLE, WITHOUT)
    rows = [_row(control, retimed_of(timed, control.entry)) for control in found]
    if not found:  # bare layers alone
        setting = setting_of(timed)
        rows = [_timed_row(each) for each in timed if each.router.setting == setting]
    else:
        rows.append(_row_of_all(found))
    return assemble(NAME, TITLE, _caption(study, found, timed), COLUMNS, rows)


def sentences(study: StudyData) -> list[str]:
    """What the control says of the study, for its summary; nothing where there is none."""
    found, timed = controls(study), retimed(study)
    told = []
    if (rate := raised(found)) is not None:
        points = COLUMNS[3]
        floor = floor_of_all(found)
        noise = (
            f"; the noise floor of means of {floor[1]} seeds is ± {points.number(floor[0])} points"
            if floor
            else ""
        )
        tests = counted(rate.tests, "test")
        told.append(
            f"A/A control: of {tests} of a router against itself {rate.raised} raised a false "
            f"alarm, {100 * rate.rate:.0f} % (95 % interval {100 * rate.low:.0f} to "
            f"{100 * rate.high:.0f} %){noise}."
        )
    if (apart := deviations(timed, "forward_ms")) is not None:
        told.append(
            f"The same layers timed in two processes differ by {100 * apart[0]:.1f} % (median of "
            f"{counted(len(timed), 'forward time')}) and by {100 * apart[1]:.1f} % at most."
        )
    return told


def _row(control: Control, timed: Retimed | None) -> Row:
    entry, difference = control.entry, control.compared.difference
    n = len(control.differences)
    head = (words(entry.router), words(entry.condition.label), words(str(n), trials=control.trials))
    if difference is None:
        return Row((*head, *[words(MISSING)] * 4, *_ratios(timed)), n, entry)
    made = partial(Cell, n=n, trials=control.trials)
    alarm = {None: MISSING, True: "yes", False: "no"}[control.alarm]
    numbers = (
        made(difference.mean, difference.low, difference.high),
        words(MISSING) if control.p_value is None else made(control.p_value),
        words(alarm),
        made(control.noise_floor),
    )
    return Row((*head, *numbers, *_ratios(timed)), n, entry)


def _row_of_all(found: Sequence[Control]) -> Row:
    trials = tuple(trial for control in found for trial in control.trials)
    pairs = sum(len(control.differences) for control in found)
    rate, floor = raised(found), floor_of_all(found)
    made = partial(Cell, trials=trials)
    alarms = words(MISSING)
    if rate is not None:
        alarms = made(rate.rate, rate.low, rate.high, rate.tests, bracketed=True)
    cells = (
        *(words(ALL), words(""), words(str(pairs), trials=trials)),
        *(words(""), words(""), alarms),
        made(floor[0], n=pairs) if floor else words(MISSING),
        *(words(""), words("")),
    )
    return Row(cells, pairs)


def _timed_row(timed: Retimed) -> Row:
    entry = timed.router.entry
    head = (words(entry.router), words(entry.condition.label), words("0"))
    return Row((*head, *[words("")] * 4, *_ratios(timed)), 0, entry)


def _ratios(timed: Retimed | None) -> list[Cell]:
    return [_ratio(timed, key) for key in TIMED]


def _ratio(timed: Retimed | None, key: str) -> Cell:
    ratio = timed.ratio(key) if timed else None
    if timed is None or ratio is None:
        return words(MISSING)
    marks = (DISTURBED,) if timed.is_disturbed(key) else ()
    return Cell(ratio, n=1, marks=marks, trials=(timed.twin.layer, timed.router.layer))


def _caption(study: StudyData, found: Sequence[Control], timed: Sequence[Retimed]) -> str:
    n = max((len(control.differences) for control in found), default=0)
    setting = setting_of(timed)
    parts = [
        "Each router was trained a second time, as its twin: the same data order and the same "
        "first weights of all but the MoE layers, whose weights and noise come from a stream of "
        "their own. So nothing but chance makes the difference, twin less router, ± half the width "
        f"of its {100 * study.confidence:g} % Student t interval; two-sided paired t test, p "
        "uncorrected for the number of rows.",
        sentence_on_looks(study),
        f"False alarm: p < {ALPHA}; in the last row the share of rows, with Clopper and Pearson's "
        "exact 95 % interval, which takes them for independent; they are not quite, since routers "
        "of one seed share its data order and the first weights of their experts. Noise floor: "
        "what the means of two routers differ by at most, in 95 % of all cases, by chance alone, "
        f"for as many seeds; in the last row from all pairs, for {n}."
        if found
        else "",
        f"Times: of {setting.title} ({setting.sizes}) on {setting.machine}, each of the two in a "
        "process of its own (but where a run has --jobs 0)."
        if setting
        else "",
    ]
    return " ".join(filter(None, parts))
