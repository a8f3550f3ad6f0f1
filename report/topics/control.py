"""The A/A control: each router against its replicate, which differs only by chance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import median

from report.cells import sentence_on_analyses
from report.comparisons import Comparison, compare
from report.conditions import Entry
from report.study import StudyData
from report.table import MISSING, Cell, Column, Lacking, Row, captioned, number, text_columns, words
from report.timings import Timing, of_entry, representative, timings
from report.topics.cost import timing_cell
from report.topics.make import Contents, as_table
from results.statistics.comparisons import Alarms, alarms, noise_floor
from results.statistics.means import ALPHA
from results.text import counted


def replicates(study: StudyData) -> dict[Entry, Entry]:
    """Return the replicate of each entry that has one, in order."""
    trained = set(study.trials["entry"])
    second = {entry: replace(entry, aa_replicate=1) for entry in study.entries}
    return {entry: replicate for entry, replicate in second.items() if replicate in trained}


def controls(study: StudyData) -> list[Comparison]:
    """Return replicate minus router for each pair, each its own family, in order of the routers."""
    return [
        made
        for entry, replicate in replicates(study).items()
        for made in compare(study, entry.condition, [(replicate, entry)])
    ]


def false_alarms(own: Sequence[Comparison]) -> Alarms | None:
    """Return the rate of false alarms over all controls, or None if nothing could be tested."""
    p_values = [control.difference.p_value for control in own if control.difference]
    tested = [p_value for p_value in p_values if p_value is not None]
    return alarms(tested) if tested else None


def floor_of_all(own: Sequence[Comparison]) -> tuple[float, int] | None:
    """Return the noise floor over all controls and the number of seeds that it holds for."""
    pooled = [difference for control in own for difference in control.differences]
    n = max((len(control.seeds) for control in own), default=0)
    return (noise_floor(pooled, n), n) if n else None


@dataclass(frozen=True)
class Retimed:
    """A bare layer or model and its replicate, timed at one setting in two processes."""

    router: Timing
    replicate: Timing

    def ratio(self, key: str) -> float | None:
        """Return the replicate's number divided by the router's, or None if either is missing."""
        ours, theirs = self.router.values.get(key), self.replicate.values.get(key)
        return theirs / ours if ours and theirs is not None else None


def retimed(study: StudyData) -> list[Retimed]:
    """Return every timing whose replicate was timed as well."""
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
    """Make a row for each router and condition, and a last one for all of them."""
    compared, timed = controls(study), retimed(study)
    if not compared and not timed:
        raise Lacking("no router was trained a second time as its own control (run --aa)")
    own = [each.router for each in timed]
    setting = representative(own)
    rows = []
    for control in compared:
        chosen = of_entry(own, setting, control.reference)
        pair = next((each for each in timed if each.router is chosen), None)
        trials = control.trials(study)
        rows.append(
            _row(control.reference, len(control.seeds), trials, _numbers(study, control), pair)
        )
    if compared:
        rows.append(_row_of_all(study, compared))
    else:  # only bare layers
        alike = [each for each in timed if each.router.setting == setting]
        rows = [_row(each.router.entry, 0, (), [words("")] * 4, each) for each in alike]
    n = max((len(control.seeds) for control in compared), default=0)
    summary = (
        "Each router was trained a second time, as its twin, with other initial weights and noise "
        "in its MoE layers, so that the two differ only by chance. Difference: twin minus router, "
        f"± half of its {100 * study.confidence:g} % Student t interval."
    )
    details = (
        "A twin has the same data order and the same initial weights except in the MoE layers, "
        "whose weights and noise come from a random stream of their own. p: two-sided paired t "
        "test, uncorrected for the number of rows.",
        sentence_on_analyses(study),
        f"False alarm: p < {ALPHA}; in the last row the share of rows, with Clopper and Pearson's "
        "exact 95 % interval, which assumes that they are independent; they are not quite, since "
        "routers of one seed share its data order and the initial weights of their experts. Noise "
        "floor: the most by which the means of two routers differ by chance alone in 95 % of all "
        f"cases, for as many seeds; in the last row from all pairs, for {n}."
        if compared
        else "",
        f"Times: of {setting.title} ({setting.sizes}) on {setting.machine}, each of the two in a "
        "process of its own (except in a run with --jobs 0)."
        if setting
        else "",
    )
    return captioned(summary, *details), COLUMNS, rows


def sentences(study: StudyData) -> list[str]:
    """Return what the control shows about the study, for the summary; empty without a control."""
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


def _row(
    entry: Entry, n: int, trials: Sequence[str], numbers: Sequence[Cell], timed: Retimed | None
) -> Row:
    head = (words(entry.label), words(entry.condition.label), words(str(n), trials=trials))
    ratios = [_ratio(timed, key) for key in ("forward_ms", "forward_overhead")]
    return Row((*head, *numbers, *ratios), n, entry)


def _numbers(study: StudyData, control: Comparison) -> list[Cell]:
    difference, trials = control.difference, control.trials(study)
    if difference is None:
        return [words(MISSING)] * 4
    p, n = difference.p_value, difference.n
    return [
        Cell(difference.mean, difference.low, difference.high, n, trials=trials),
        number(p, n, trials),
        words(MISSING if p is None else "yes" if p < ALPHA else "no"),
        number(noise_floor(control.differences, n), n, trials),
    ]


def _row_of_all(study: StudyData, compared: Sequence[Comparison]) -> Row:
    trials = tuple(chain.from_iterable(control.trials(study) for control in compared))
    pairs = sum(len(control.seeds) for control in compared)
    rate, floor = false_alarms(compared), floor_of_all(compared)
    alarmed = words(MISSING)
    if rate is not None:
        alarmed = Cell(rate.rate, rate.low, rate.high, rate.tests, bracketed=True, trials=trials)
    none = words("")
    head = (words("all"), none, words(str(pairs), trials=trials), none, none)
    noise = number(floor[0] if floor else None, pairs, trials)
    return Row((*head, alarmed, noise, none, none), pairs)


def _ratio(timed: Retimed | None, key: str) -> Cell:
    ratio = timed.ratio(key) if timed else None
    if timed is None or ratio is None:
        return words(MISSING)
    both = (timed.replicate, timed.router)
    marks = timing_cell(timed.replicate, key).marks or timing_cell(timed.router, key).marks
    return Cell(ratio, n=1, marks=marks, trials=tuple(timing.layer for timing in both))
