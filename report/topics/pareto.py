"""Test accuracy against the cost of a model, and the Pareto front of the two."""

from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from report.axes import far_nulls, name_far
from report.cells import listed
from report.comparisons import METRIC
from report.conditions import Entry
from report.study import StudyData
from report.style import FAINT, PAGE, panels, router_legend
from report.table import DISTURBED, Lacking, number_of_runs, with_warning
from report.timings import Setting, Timing, of_entry, timings
from report.topics.make import Sketch, as_figures
from results.conditions import Condition
from results.text import counted

CAPTION = (
    "Top-1 on the test split, mean over the seeds ({counts}), against the model's cost of one "
    "image, or its size. Line: the Pareto front, of the systems that no cheaper one reaches."
)
TIME, MILLISECONDS = "forward_ms", "forward, ms an image"
Places = Mapping[Entry, tuple[float, float]]
"""The cost and the accuracy in % of each entry."""


@as_figures("pareto", "Accuracy against cost", "accuracy", "throughput")
def draw(study: StudyData, condition: Condition) -> Sketch:
    """Draw a panel each for milliseconds (if models were timed), FLOPs and parameters."""
    accuracy = {e: 100 * study.final(METRIC, e).mean() for e in study.under(condition)}
    accuracy = {entry: value for entry, value in accuracy.items() if value == value}
    if len(accuracy) < 2:
        raise Lacking("fewer than two systems have a test accuracy", fine=True)
    models = timed(study, accuracy)
    costs: dict[str, Mapping[Entry, float]] = {
        MILLISECONDS: per_image(models),
        "forward FLOPs an image": means(study, "flops_per_image", accuracy),
        "parameters": means(study, "params_total", accuracy),
    }
    costs = {label: of for label, of in costs.items() if of}
    far = far_nulls(study, {entry: [value] for entry, value in accuracy.items()})
    near = [entry for entry in accuracy if entry not in far]
    figure, drawn = panels(len(costs), 3, PAGE, 2.1 + 0.05 * len(near), sharey=True)
    for axes, (label, of) in zip(drawn, costs.items(), strict=True):
        _draw(axes, study, {e: (of[e], accuracy[e]) for e in near if e in of})
        axes.set_xlabel(label)
        if label != MILLISECONDS:
            axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    drawn[0].set_ylabel("top-1 (%)")
    name_far(drawn[0], far, accuracy)
    router_legend(figure, {entry.system: study.styles[entry.system] for entry in near}, 3)
    counts = number_of_runs({entry.system: study.finished(entry) for entry in accuracy})
    caption = f"{CAPTION.format(counts=counts)} {_times(models)}".strip()
    if disturbed := [e.label for e, timing in models.items() if timing.is_disturbed(TIME)]:
        busy = f"{DISTURBED}: timed while other processes kept the machine busy"
        caption = with_warning(caption, f"{busy}: {listed(disturbed, 'throughput')}.")
    return caption, figure, list(accuracy)


def front(places: Places) -> list[Entry]:
    """Return the entries whose accuracy none reaches at the same or lower cost, cheapest first."""
    kept: list[Entry] = []
    for entry in sorted(places, key=lambda e: (places[e][0], -places[e][1])):
        if not kept or places[entry][1] > places[kept[-1]][1]:
            kept.append(entry)
    return kept


def _draw(axes: Axes, study: StudyData, places: Places) -> None:
    best = [places[entry] for entry in front(places)]
    axes.plot(*zip(*best, strict=True), color=FAINT, lw=0.8, drawstyle="steps-post", zorder=0)
    for entry, place in places.items():
        axes.plot(*place, **study.styles[entry.system].point, ls="")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid()


def means(study: StudyData, metric: str, entries: Iterable[Entry]) -> dict[Entry, float]:
    """Return the mean over seeds of a metric, for each entry that has it."""
    values = {entry: study.final(metric, entry) for entry in entries}
    return {entry: float(each.mean()) for entry, each in values.items() if len(each)}


def timed(study: StudyData, entries: Iterable[Entry]) -> dict[Entry, Timing]:
    """Return the timing of each entry's whole model, at the most frequent setting."""
    models = [timing for timing in timings(study) if timing.setting.scope == "model"]
    settings = [timing.setting for timing in models]
    setting: Setting | None = max(settings, key=settings.count, default=None)
    by_entry = {entry: of_entry(models, setting, entry) for entry in entries}
    return {e: t for e, t in by_entry.items() if t is not None and TIME in t.values}


def per_image(models: Mapping[Entry, Timing]) -> dict[Entry, float]:
    """Return the milliseconds of a forward pass per image of its batch."""
    return {e: each.values[TIME] / each.setting.batch for e, each in models.items()}


def _times(timed: Mapping[Entry, Timing]) -> str:
    """Return how the milliseconds were measured, or "" if there are none."""
    if not timed:
        return ""
    setting = next(iter(timed.values())).setting
    threads = counted(setting.threads, "thread")
    return (
        f"Milliseconds: median of whole models timed in turn, {setting.sizes}, {threads}, on "
        f"{setting.machine}."
    )
