"""Pruned models: accuracy, FLOPs, bytes and time against the number of experts left."""

from typing import Any

import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from report.axes import draw_line, over_seeds
from report.cells import (
    INTERVALS,
    LEAD,
    mean_cell,
    measured_by,
    metric_row,
    sentence_on_analyses,
    why_without,
)
from report.conditions import Entry
from report.study import StudyData
from report.style import KNOWN, PAGE, folded, panels, router_legend
from report.table import (
    NOT_APPLICABLE,
    Cell,
    Column,
    Lacking,
    captioned,
    number_of_runs,
    panel_title,
    text_columns,
    words,
)
from report.topics.make import Contents, Sketch, as_figure, as_table

COSTS = (
    Column("pruned_flops", "FLOPs", "FLOP", "lower", si=True),
    Column("pruned_bytes", "parameters", "B", "lower", si=True),
    Column("pruned_ms", "time", "ms", "lower"),
    Column("pruned_time_ratio", "time over whole", "×", "lower"),
)
CAPTION = (
    "Test top-1 with this many experts left in each MoE layer, by the rule that kept or merged "
    "them on validation images; nothing was trained afterwards. Each router's first row has all "
    f"experts. {INTERVALS}"
)
MEANINGS = (
    "FLOPs: of one image, forward; parameters: of the whole network; time: of one test batch, "
    "forward, the whole network and all rules in turn; FLOPs and times: mean over the rules. "
    "The start of router change is {starts}."
)


@as_table("pruning", "Pruned models by experts left", "pruning")
def table(study: StudyData) -> Contents:
    """Make a row for each router, condition and number of experts."""
    entries = measured_by(study, "pruning")
    rules = _rules(study, entries)
    tops = [Column(f"pruned_top1_{r}", _label(r), "%", "higher", 100, 1) for r in rules]
    rows = []
    for entry in entries:
        for experts in _sizes(study, entry):
            cells = [_mean(study, "pruned_top1", entry, [rule], experts) for rule in rules]
            own = _rules(study, [entry])
            cells += [_mean(study, cost.key, entry, own, experts) for cost in COSTS]
            rows.append(metric_row(study, entry, cells, str(experts)))
    columns = (*LEAD, *text_columns("experts"), *tops, *COSTS)
    meanings = MEANINGS.format(starts=_starts(study, entries))
    details = (meanings, _undefined(study, entries), sentence_on_analyses(study))
    return captioned(CAPTION, *details), columns, rows


FIGURE_CAPTION = (
    "Test top-1 against the experts left in each MoE layer, by the rule that kept or merged them; "
    "nothing was trained afterwards. Line: mean over the seeds ({counts}); band: from the lowest "
    "to the highest seed (none where n = 1)."
)


@as_figure("pruning", "Accuracy by experts left", "pruning")
def draw(study: StudyData) -> Sketch:
    """Draw a panel for each router and condition, with a line for each rule."""
    entries = [entry for entry in study.entries if len(_sizes(study, entry)) > 1]
    if not entries:
        raise Lacking(why_without(study, "pruning", "pruned models"))
    rules = _rules(study, entries)
    styles = dict(zip(rules, KNOWN.values(), strict=False))
    figure, axes = panels(len(entries), 3, PAGE, 2.0, sharey=True)
    runs = {}
    for number, (entry, place) in enumerate(zip(entries, axes, strict=True)):
        sizes = _sizes(study, entry)
        for rule in rules:
            if not (points := _points(study, entry, rule, sizes)).empty:
                draw_line(place, styles[rule], points, "experts")
        runs[entry.system] = len(study.final("pruned_top1", entry, experts=sizes[0]))
        place.set_title(folded(panel_title(str(entry.system), entry, entries), 36))
        place.set_xscale("log", base=2)
        place.xaxis.set_major_locator(FixedLocator(sizes))
        place.xaxis.set_minor_locator(NullLocator())
        place.set_xticks(sizes, [str(size) for size in sizes])
        place.set_xlabel("experts left")
        if number % 3 == 0:
            place.set_ylabel("test top-1 (%)")
        place.grid()
    router_legend(figure, {_label(rule): styles[rule] for rule in rules}, 3)
    return FIGURE_CAPTION.format(counts=number_of_runs(runs)), figure, entries


def _places(study: StudyData, entry: Entry) -> list[dict[str, Any]]:
    return list(study.rows("pruned_top1", entry)["where"])


def _sizes(study: StudyData, entry: Entry) -> list[int]:
    """Return the numbers of experts that an entry was pruned to, the unpruned number first."""
    return sorted({place["experts"] for place in _places(study, entry)}, reverse=True)


def _rules(study: StudyData, entries: list[Entry]) -> list[str]:
    """Return the rules by which any entry was pruned, in the order of the suite."""
    places = [place for entry in entries for place in _places(study, entry)]
    return list(dict.fromkeys(place["rule"] for place in places if "rule" in place))


def _label(rule: str) -> str:
    return rule.removeprefix("prune_").replace("_", " ")


def _by_seed(study: StudyData, metric: str, entry: Entry, rule: str, experts: int) -> pd.Series:
    """Return a metric of a rule by seed; with all experts left, it is the same for every rule."""
    if not any(place.get("rule") == rule for place in _places(study, entry)):
        return pd.Series(dtype=float)
    if experts == _sizes(study, entry)[0]:
        return study.final(metric, entry, experts=experts)
    return study.final(metric, entry, experts=experts, rule=rule)


def _mean(study: StudyData, metric: str, entry: Entry, rules: list[str], experts: int) -> Cell:
    """Show a metric averaged over the rules."""
    values = pd.concat([_by_seed(study, metric, entry, rule, experts) for rule in rules])
    if values.empty:
        return words(NOT_APPLICABLE)
    return mean_cell(study, entry, values.groupby(level=0).mean())


def _points(study: StudyData, entry: Entry, rule: str, sizes: list[int]) -> pd.DataFrame:
    """Return top-1 in % by the number of experts left, summarised over seeds."""
    frames = []
    for size in sizes:
        values = 100 * _by_seed(study, "pruned_top1", entry, rule, size)
        frames.append(pd.DataFrame({"seed": values.index, "experts": size, "value": values}))
    return over_seeds(pd.concat(frames, ignore_index=True), "experts")


def _starts(study: StudyData, entries: list[Entry]) -> str:
    """Return what gate vectors were compared with."""
    places = [place for entry in entries for place in _places(study, entry)]
    named = {place["reference"] for place in places if "reference" in place}
    return (
        " or ".join(
            text
            for name, text in (
                ("initial weights", "the initial weights"),
                ("parent", "for a derived trial what it took from its parent"),
            )
            if name in named
        )
        or "not measured"
    )


def _undefined(study: StudyData, entries: list[Entry]) -> str:
    """Return a sentence on the rules that are not defined, with reasons, or "" if all are."""
    records = [record for entry in entries for record in study.array("undefined_rules", entry)]
    reasons = dict.fromkeys(str(text) for record in records for text in record.values)
    return f"Not defined: {'; '.join(reasons)}." if reasons else ""
