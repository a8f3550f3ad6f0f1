"""The A/A control: each router against its replicate, which differs by chance alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median

from report.cells import sentence_on_analyses
from report.comparisons import METRIC
from report.conditions import Entry
from report.study import StudyData
from report.table import DISTURBED, MISSING, Cell, Column, Lacking, Row, number, text_columns, words
from report.timings import Timing, of_entry, representative, timings
from report.topics.make import Contents, as_table
from results.statistics import ALPHA, Alarms, PairedDifference, alarms, family, noise_floor
from results.text import counted


@dataclass(frozen=True)
class Control:
    """A router and its replicate under one condition.

    Attributes:
        difference: replicate less router, tested as any two routers are, but as a family of its
            own; None without a seed in common.
        differences: the replicate less the router, by seed.
        trials: the fingerprints behind them, the replicate's first.
    """

    entry: Entry
    difference: PairedDifference | None
    differences: tuple[float, ...]
    trials: tuple[str, ...]

    @property
    def alarm(self) -> bool | None:
        """Whether the test sees a difference where there is none; None where there is no test."""
        p_value = self.difference.p_value if self.difference else None
        return None if p_value is None else p_value < ALPHA


def controls(study: StudyData) -> list[Control]:
    """Return a control for each replicate, in the order of the routers."""
    made = []
    for entry, replicate in study.replicates.items():
        ours, theirs = study.final(METRIC, entry), study.final(METRIC, replicate)
        seeds = list(ours.index.intersection(theirs.index))
        values = {"router": dict(ours), "replicate": dict(theirs)}
        (compared,) = family(values, [("replicate", "router")], study.planned_analyses)
        trials = study.behind(replicate, seeds) + study.behind(entry, seeds)
        made.append(Control(entry, compared.difference, tuple(theirs[seeds] - ours[seeds]), trials))
    return made


def false_alarms(own: Sequence[Control]) -> Alarms | None:
    """Measure the rate of false alarms over all controls; None where nothing could be tested."""
    p_values = [control.difference.p_value for control in own if control.difference]
    tested = [p_value for p_value in p_values if p_value is not None]
    return alarms(tested) if tested else None


def floor_of_all(own: Sequence[Control]) -> tuple[float, int] | None:
    """Return the noise floor from the differences of all controls, and the seeds that it is for."""
    pooled = [difference for control in own for difference in control.differences]
    n = max((len(control.differences) for control in own), default=0)
    return (noise_floor(pooled, n), n) if n else None


@dataclass(frozen=True)
class Retimed:
    """A bare layer or model, and its replicate, timed in two processes at one setting."""

    router: Timing
    replicate: Timing

    def ratio(self, key: str) -> float | None:
        """Return a number of the replicate over the router's; None where one of them has none."""
        ours, theirs = self.router.values.get(key), self.replicate.values.get(key)
        return theirs / ours if ours and theirs is not None else None


def retimed(study: StudyData) -> list[Retimed]:
    """Return every timing whose replicate was timed too."""
    own = {(timing.setting, timing.entry): timing for timing in timings(study, aa_replicate=1)}
    return [
        Retimed(timing, own[place])
        for timing in timings(study)
        if (place := (timing.setting, timing.entry)) in own
    ]


POINTS = Column("difference", "difference in top-1", "points", scale=100)
COLUMNS = (
    *text_columns("router", "condition", n="pairs"),
    POINTS,
    Column("p", "p", digits=3, p_value=True),
    Column("alarm", "false alarm", "%", scale=100, digits=0),
    Column("floor", "noise floor", "points", scale=100),
    Column("forward_ms", "fwd time, twin / router", "×", digits=3, n=1),
    Column("forward_overhead", "fwd overhead, twin / router", "×", digits=3, n=1),
)


@as_table("control", "A/A control: each router against itself", "accuracy", "throughput")
def table(study: StudyData) -> Contents:
    """Make a row for each router and condition, and one for all of them."""
    compared, timed = controls(study), retimed(study)
    if not compared and not timed:
        raise Lacking("no router was trained a second time as its own control (run --aa)")
    own = [each.router for each in timed]
    setting = representative(own)
    rows = []
    for control in compared:
        chosen = of_entry(own, setting, control.entry)
        pair = next((each for each in timed if each.router is chosen), None)
        numbers = _numbers(control) if control.difference else [words(MISSING)] * 4
        rows.append(_row(control, numbers, pair))
    if compared:
        rows.append(_row_of_all(compared))
    else:  # bare layers alone
        alike = [each for each in timed if each.router.setting == setting]
        rows = [
            _row(Control(each.router.entry, None, (), ()), [words("")] * 4, each) for each in alike
        ]
    n = max((len(control.differences) for control in compared), default=0)
    sentences = [
        "Each router was trained a second time, as its twin: the same data order and the same "
        "first weights of all but the MoE layers, whose weights and noise come from a stream of "
        "their own. So nothing but chance makes the difference, twin less router, ± half the width "
        f"of its {100 * study.confidence:g} % Student t interval; two-sided paired t test, p "
        "uncorrected for the number of rows.",
        sentence_on_analyses(study),
        f"False alarm: p < {ALPHA}; in the last row the share of rows, with Clopper and Pearson's "
        "exact 95 % interval, which takes them for independent; they are not quite, since routers "
        "of one seed share its data order and the first weights of their experts. Noise floor: "
        "what the means of two routers differ by at most, in 95 % of all cases, by chance alone, "
        f"for as many seeds; in the last row from all pairs, for {n}."
        if compared
        else "",
        f"Times: of {setting.title} ({setting.sizes}) on {setting.machine}, each of the two in a "
        "process of its own (but where a run has --jobs 0)."
        if setting
        else "",
    ]
    return " ".join(filter(None, sentences)), COLUMNS, rows


def sentences(study: StudyData) -> list[str]:
    """Say what the control says of the study, for its summary; nothing where there is none."""
    compared, timed = controls(study), retimed(study)
    made = []
    if (rate := false_alarms(compared)) is not None:
        floor = floor_of_all(compared)
        noise = (
            f"; the noise floor of means of {floor[1]} seeds is ± {POINTS.number(floor[0])} points"
            if floor
            else ""
        )
        tests = counted(rate.tests, "test")
        made.append(
            f"A/A control: of {tests} of a router against itself {rate.raised} raised a false "
            f"alarm, {100 * rate.rate:.0f} % (95 % interval {100 * rate.low:.0f} to "
            f"{100 * rate.high:.0f} %){noise}."
        )
    ratios = [ratio for each in timed if (ratio := each.ratio("forward_ms")) is not None]
    if shares := [max(ratio, 1 / ratio) - 1 for ratio in ratios if ratio > 0]:
        made.append(
            f"The same layers timed in two processes differ by {100 * median(shares):.1f} % "
            f"(median of {counted(len(timed), 'forward time')}) and by {100 * max(shares):.1f} % "
            "at most."
        )
    return made


def _row(control: Control, numbers: Sequence[Cell], timed: Retimed | None) -> Row:
    entry, n = control.entry, len(control.differences)
    head = (words(entry.label), words(entry.condition.label), words(str(n), trials=control.trials))
    ratios = [_ratio(timed, key) for key in ("forward_ms", "forward_overhead")]
    return Row((*head, *numbers, *ratios), n, entry)


def _numbers(control: Control) -> list[Cell]:
    difference, n, trials = control.difference, len(control.differences), control.trials
    assert difference is not None
    alarm = {None: MISSING, True: "yes", False: "no"}[control.alarm]
    return [
        Cell(difference.mean, difference.low, difference.high, n, trials=trials),
        number(difference.p_value, n, trials),
        words(alarm),
        number(noise_floor(control.differences, n), n, trials),
    ]


def _row_of_all(compared: Sequence[Control]) -> Row:
    trials = tuple(chain.from_iterable(control.trials for control in compared))
    pairs = sum(len(control.differences) for control in compared)
    rate, floor = false_alarms(compared), floor_of_all(compared)
    alarmed = words(MISSING)
    if rate is not None:
        ends = rate.low, rate.high
        alarmed = Cell(rate.rate, *ends, rate.tests, bracketed=True, trials=trials)
    cells = (
        *(words("all"), words(""), words(str(pairs), trials=trials)),
        *(words(""), words(""), alarmed),
        number(floor[0] if floor else None, pairs, trials),
        *(words(""), words("")),
    )
    return Row(cells, pairs)


def _ratio(timed: Retimed | None, key: str) -> Cell:
    ratio = timed.ratio(key) if timed else None
    if timed is None or ratio is None:
        return words(MISSING)
    both = (timed.replicate, timed.router)
    marks = (DISTURBED,) if any(timing.is_disturbed(key) for timing in both) else ()
    return Cell(ratio, n=1, marks=marks, trials=tuple(timing.layer for timing in both))
