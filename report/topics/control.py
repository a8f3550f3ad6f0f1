"""The A/A control: each router against its twin, which differs by chance alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from report.cells import sentence_on_analyses
from report.comparisons import METRIC
from report.conditions import Entry
from report.study import StudyData
from report.table import DISTURBED, MISSING, Absent, Cell, Column, Row, Table, assemble, words
from report.timings import Setting, Timing, of_entry, representative, timings
from results.statistics import ALPHA, Alarms, Compared, alarms, family, noise_floor
from results.text import counted

ROUTER, TWIN = "router", "twin"


@dataclass(frozen=True)
class Control:
    """A router and its twin under one condition.

    Attributes:
        compared: twin less router, tested as any two routers are, but as a family of its own.
        differences: those by seed.
        trials: the fingerprints behind them, the twin's first.
    """

    entry: Entry
    compared: Compared
    differences: tuple[float, ...]
    trials: tuple[str, ...]

    @property
    def p_value(self) -> float | None:
        difference = self.compared.difference
        return None if difference is None else difference.p_value

    @property
    def alarm(self) -> bool | None:
        """Whether the test sees a difference where there is none; None where there is no test."""
        return None if self.p_value is None else self.p_value < ALPHA

    @property
    def noise_floor(self) -> float | None:
        """For as many seeds as there are pairs; None without a pair."""
        differences = self.differences
        return noise_floor(differences, len(differences)) if differences else None


def controls(study: StudyData) -> list[Control]:
    """Return a control for each twin, in the order of the routers."""
    return [_control(study, entry, twin) for entry, twin in study.twins.items()]


def raised(own: Sequence[Control]) -> Alarms | None:
    """Measure the rate of false alarms over all controls; None where nothing could be tested."""
    p_values = [control.p_value for control in own if control.p_value is not None]
    return alarms(p_values) if p_values else None


def floor_of_all(own: Sequence[Control]) -> tuple[float, int] | None:
    """Return the noise floor from the differences of all controls, and the seeds that it is for."""
    pooled = [difference for control in own for difference in control.differences]
    n = max((len(control.differences) for control in own), default=0)
    return (noise_floor(pooled, n), n) if n else None


@dataclass(frozen=True)
class Retimed:
    """A bare layer or model, and its twin, timed in two processes at one setting."""

    router: Timing
    twin: Timing

    def ratio(self, key: str) -> float | None:
        """Return a number of the twin's over the router's; None where one of them has none."""
        ours, theirs = self.router.values.get(key), self.twin.values.get(key)
        return theirs / ours if ours and theirs is not None else None

    def is_disturbed(self, key: str) -> bool:
        """Tell whether other processes disturbed one of the two."""
        return self.router.is_disturbed(key) or self.twin.is_disturbed(key)


def retimed(study: StudyData) -> list[Retimed]:
    """Return every timing that has a twin's beside it."""
    twins = {(timing.setting, timing.entry): timing for timing in timings(study, aa_replicate=1)}
    return [
        Retimed(timing, twins[place])
        for timing in timings(study)
        if (place := (timing.setting, timing.entry)) in twins
    ]


def retimed_of(pairs: Sequence[Retimed], entry: Entry) -> Retimed | None:
    """Return the one of an entry at the setting that a table has room for."""
    chosen = of_entry([each.router for each in pairs], setting_of(pairs), entry)
    return next((each for each in pairs if each.router is chosen), None)


def setting_of(pairs: Sequence[Retimed]) -> Setting | None:
    """Return the setting that a table has room for."""
    return representative([each.router for each in pairs])


def deviations(pairs: Sequence[Retimed], key: str) -> tuple[float, float] | None:
    """Find by how much two processes differ in a number, as a share: the median, and the most."""
    ratios = [ratio for each in pairs if (ratio := each.ratio(key)) is not None]
    shares = [max(ratio, 1 / ratio) - 1 for ratio in ratios if ratio > 0]
    return (median(shares), max(shares)) if shares else None


def _control(study: StudyData, entry: Entry, twin: Entry) -> Control:
    ours, theirs = study.final(METRIC, entry), study.final(METRIC, twin)
    seeds = list(ours.index.intersection(theirs.index))
    (compared,) = family(
        {ROUTER: dict(ours), TWIN: dict(theirs)}, [(TWIN, ROUTER)], study.planned_analyses
    )
    return Control(
        entry,
        compared,
        tuple(theirs[seeds] - ours[seeds]),
        study.behind(twin, seeds) + study.behind(entry, seeds),
    )


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
    """Make a row for each router and condition, and one for all of them."""
    compared, timed = controls(study), retimed(study)
    if not compared and not timed:
        return Absent(NAME, TITLE, WITHOUT)
    rows = [_row(control, retimed_of(timed, control.entry)) for control in compared]
    if not compared:  # bare layers alone
        setting = setting_of(timed)
        rows = [_timed_row(each) for each in timed if each.router.setting == setting]
    else:
        rows.append(_row_of_all(compared))
    return assemble(NAME, TITLE, _caption(study, compared, timed), COLUMNS, rows)


def sentences(study: StudyData) -> list[str]:
    """Say what the control says of the study, for its summary; nothing where there is none."""
    compared, timed = controls(study), retimed(study)
    said = []
    if (rate := raised(compared)) is not None:
        points = COLUMNS[3]
        floor = floor_of_all(compared)
        noise = (
            f"; the noise floor of means of {floor[1]} seeds is ± {points.number(floor[0])} points"
            if floor
            else ""
        )
        tests = counted(rate.tests, "test")
        said.append(
            f"A/A control: of {tests} of a router against itself {rate.raised} raised a false "
            f"alarm, {100 * rate.rate:.0f} % (95 % interval {100 * rate.low:.0f} to "
            f"{100 * rate.high:.0f} %){noise}."
        )
    if (apart := deviations(timed, "forward_ms")) is not None:
        said.append(
            f"The same layers timed in two processes differ by {100 * apart[0]:.1f} % (median of "
            f"{counted(len(timed), 'forward time')}) and by {100 * apart[1]:.1f} % at most."
        )
    return said


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


def _row_of_all(compared: Sequence[Control]) -> Row:
    trials = tuple(trial for control in compared for trial in control.trials)
    pairs = sum(len(control.differences) for control in compared)
    rate, floor = raised(compared), floor_of_all(compared)
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


def _caption(study: StudyData, compared: Sequence[Control], timed: Sequence[Retimed]) -> str:
    n = max((len(control.differences) for control in compared), default=0)
    setting = setting_of(timed)
    parts = [
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
    return " ".join(filter(None, parts))
