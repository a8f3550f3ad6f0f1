"""Few-shot accuracy on other data sets, shown with top-1: in the main table and against FLOPs."""

from matplotlib.ticker import EngFormatter, MaxNLocator

from report.axes import far_nulls, name_far
from report.cells import why_without
from report.conditions import Entry
from report.study import StudyData
from report.style import PAGE, panels, router_legend
from report.table import Column, Lacking, number_of_runs
from report.topics.make import Sketch, as_figure
from report.topics.pareto import means

SUITE, HEADLINE = "fewshot", "transfer_top1"
GENERIC = f"{SUITE}.{HEADLINE}"
"""The key that the suite's headline would have in the main table, like any other suite's."""


def columns(study: StudyData) -> tuple[Column, ...]:
    """Return the column of few-shot accuracy, or none if the study did not measure it."""
    rows = study.metrics[study.metrics["metric"] == "fewshot_top1"]
    if rows.empty:
        return ()
    shots = max(where["shots"] for where in rows["where"])
    return (Column(HEADLINE, f"{shots}-shot", "%", "higher", 100, 1, ranked=True),)


def sentence(shown: tuple[Column, ...]) -> str:
    """Return a sentence that explains the column, or "" if there is none."""
    if not shown:
        return ""
    return (
        f"{shown[0].label}: top-1 on the test splits of other data sets, from that many images of "
        "each class, by ridge regression on the frozen features (suite fewshot)."
    )


CAPTION = (
    "Test accuracy against the FLOPs of the training, as counted from what ran{second}. Marker: "
    "mean over the seeds ({counts}); lines join the conditions of a router, in the order of their "
    "FLOPs."
)
ALIKE = 1.05
"""The ratio of largest to smallest FLOPs below which they differ only by rounding to steps."""
SECOND = "; right: {label} accuracy on other data sets, by ridge regression on frozen features"


@as_figure("flops", "Accuracy against training FLOPs", "accuracy", SUITE)
def draw(study: StudyData) -> Sketch:
    """Draw a panel for top-1, and one for few-shot accuracy if it was measured."""
    few = columns(study)
    shown = {"top1": "top-1", **{column.key: column.label for column in few}}
    places = {metric: points(study, metric) for metric in shown}
    entries = list(places["top1"])
    if not entries:
        raise Lacking(why_without(study, "accuracy", "a test accuracy"))
    if len(entries) == 1:
        raise Lacking("a single router has nothing to be compared with", fine=True)
    far = far_nulls(study, {entry: [place[1]] for entry, place in places["top1"].items()})
    systems = dict.fromkeys(entry.system for entry in entries if entry not in far)
    figure, drawn = panels(len(shown), 2, PAGE, 2.1 + 0.05 * len(systems))
    for axes, (metric, label) in zip(drawn, shown.items(), strict=True):
        for system in systems:
            own = [place for entry, place in places[metric].items() if entry.system == system]
            axes.plot(*zip(*sorted(own), strict=True), **study.styles[system].line)
        axes.set_xlabel("training FLOPs")
        axes.set_ylabel(f"{label} (%)")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.grid()
        flops = [place[0] for place in places[metric].values()]
        if max(flops) < ALIKE * min(flops):  # equal budgets, met as closely as whole steps allow
            axes.set_xlim(0.9 * min(flops), 1.1 * max(flops))
    name_far(drawn[0], far, {entry: place[1] for entry, place in places["top1"].items()})
    router_legend(figure, {system: study.styles[system] for system in systems}, 3)
    runs = {entry.system: len(study.final("top1", entry)) for entry in entries}
    second = SECOND.format(label=few[0].label) if few else ""
    return CAPTION.format(second=second, counts=number_of_runs(runs)), figure, entries


def points(study: StudyData, metric: str) -> dict[Entry, tuple[float, float]]:
    """Return the mean training FLOPs and the mean of a metric in %, for each entry that has it."""
    values, flops = (means(study, name, study.entries) for name in (metric, "train_flops"))
    return {e: (flops[e], 100 * value) for e, value in values.items() if e in flops}
