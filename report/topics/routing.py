"""Routing: balance over experts, entropy, and mutual information with classes."""

from dataclasses import replace
from math import log2
from typing import Any

from matplotlib.axes import Axes

from report.axes import CUT, halves, mark_cut
from report.cells import (
    INTERVALS,
    LEAD,
    mean_cell,
    measured,
    measured_by,
    metric_cell,
    metric_row,
    why_unmeasured,
    why_without,
)
from report.conditions import Entry
from report.study import StudyData
from report.style import FAINT, GRID, PAGE, panels, router_legend
from report.table import Column, Lacking, captioned, number_of_runs, text_columns
from report.topics.make import Contents, Sketch, as_figures, as_table
from results.conditions import Condition
from results.statistics.means import mean_interval

BALANCE = (
    Column("demand_cv", "demand CV", "", "lower"),
    Column("load_cv", "load CV", "", "lower"),
    Column("load_max_over_mean", "load max/mean", "", "lower"),
    Column("load_gini", "load Gini", "", "lower"),
    Column("load_entropy", "load entropy", "", "higher", digits=3),
    Column("load_dead", "dead", "", "lower", digits=1),
    Column("dropped", "dropped", "%", "lower", 100, 1),
    Column("uncovered", "uncovered", "%", "lower", 100, 1),
    Column("experts_per_token_mean", "experts a token"),
    Column("experts_per_token_min", "fewest", digits=1),
    Column("experts_per_token_max", "most", digits=1),
    Column("importance_cv", "importance CV", "", "lower"),
    Column("capacity", "capacity", digits=1),
    Column("marginal_error", "marginal error", "", "lower", digits=3),
)
BY_LAYER = ("demand_cv", "load_cv", "load_max_over_mean", "load_dead", "dropped", "uncovered")


@as_table("balance", "Balance of the experts", "balance")
def balance_table(study: StudyData) -> Contents:
    """Make a row for each router and condition: means over the MoE layers."""
    rows = [
        metric_row(study, entry, [metric_cell(study, column.key, entry) for column in BALANCE])
        for entry in measured_by(study, "balance")
    ]
    caption = captioned(
        f"Over the test split at the end of training, mean over the MoE layers. {INTERVALS}",
        "Demand: tokens that want an expert, before dropping; load: tokens that it processes. CV: "
        "population std over mean; load entropy: over log2 E (1 is even); dead: experts below 1 % "
        "of the mean load; dropped: token choices lost to capacity; uncovered: tokens that no "
        "expert processed; capacity: slots of an expert in a group.",
    )
    return caption, (*LEAD, *BALANCE), rows


@as_table("balance_by_layer", "Balance, layer by layer", "balance")
def layer_table(study: StudyData) -> Contents:
    """Make a row for each router, condition and MoE layer."""
    columns = [column for column in BALANCE if column.key in BY_LAYER]
    rows = []
    for entry in measured(study, "balance"):
        for layer in sorted(study.rows("load_cv", entry)["layer"].dropna().unique()):
            cells = [metric_cell(study, column.key, entry, layer=layer) for column in columns]
            rows.append(metric_row(study, entry, cells, str(layer)))
    if not rows:
        raise Lacking(why_unmeasured(study, "balance"))
    caption = f"MoE layers in network order, from 0. {INTERVALS}"
    return caption, (*LEAD, *text_columns("layer"), *columns), rows


ENTROPY = (
    ("H_s", "soft", Column("H_s", "H_s", "bit")),
    ("H_u", "soft", Column("H_u", "H_u", "bit")),
    ("H_u", "hard", Column("H_u_hard", "H_u hard", "bit")),
    ("MI_label", "soft", Column("MI_label", "I(E;Y)", "bit", digits=3)),
    ("MI_label_corrected", "soft", Column("MI_label_corrected", "I(E;Y) corr.", "bit", digits=3)),
    ("MI_label_normalised", "soft", Column("MI_label_normalised", "I(E;Y) norm.", digits=3)),
    ("MI_label_normalised", "hard", Column("MI_label_normalised_hard", "norm., hard", digits=3)),
    ("MI_prediction_corrected", "soft", Column("MI_prediction", "I(E;Ŷ) corr.", "bit", digits=3)),
)


@as_table("entropy", "Entropy and mutual information", "entropy")
def entropy_table(study: StudyData) -> Contents:
    """Make two rows for each router and condition: for the gates and for the combine weights."""
    rows = []
    for entry in measured_by(study, "entropy"):
        for of, label in (("gates", "gates (wanted)"), ("combine", "combine weights (done)")):
            cells = [metric_cell(study, name, entry, of=of, kind=kind) for name, kind, _ in ENTROPY]
            rows.append(metric_row(study, entry, cells, label))
    caption = captioned(
        f"Over the tokens of the test split, mean over the MoE layers. {INTERVALS}",
        "H_s: mean entropy of a token's distribution over experts (0: decided); H_u: entropy of "
        "the mean distribution (log2 E: even use); I(E;Y): mutual information of expert and class, "
        "corrected by its mean over permutations (the bias), normalised by min(H(E), H(Y)) minus "
        "the bias, not defined where that is 0; Ŷ: the predicted class. hard: by the largest "
        "weight alone. No direction is better.",
    )
    return caption, (*LEAD, *text_columns("of"), *(column for *_, column in ENTROPY)), rows


GATES = {"of": "gates", "kind": "soft"}
BEST_AND_MEAN: tuple[tuple[str, dict[str, Any], Column], ...] = (
    ("top1", {}, Column("error", "error", "%", "lower", 100, 1)),
    ("MI_prediction", GATES, Column("MI_prediction", "I(E;Ŷ)", "bit", digits=2)),
    ("H_s", GATES, Column("H_s", "H_s", "bit", digits=3)),
    ("H_u", GATES, Column("H_u", "H_u", "bit", digits=2)),
)


@as_table("best_and_mean", "Best run and mean: error and expert use", "accuracy", "entropy")
def best_table(study: StudyData) -> Contents:
    """Make a row for each router and condition that has several seeds."""
    rows = []
    for entry in measured_by(study, "entropy"):
        chosen = best_seed(study, entry)
        values = [study.final(metric, entry, **where) for metric, where, _ in BEST_AND_MEAN]
        values[0] = 1 - values[0]  # the error
        best = [mean_cell(study, entry, by_seed[by_seed.index == chosen]) for by_seed in values]
        mean = [mean_cell(study, entry, by_seed) for by_seed in values]
        rows.append(metric_row(study, entry, [*best, *mean], n=max(map(len, values))))
    if all((row.n or 0) < 2 for row in rows):
        raise Lacking("one seed is its own best: ask for --seeds 2 or more")
    columns = [
        replace(column, key=f"{column.key}_{which}", label=f"{which} {column.label}", n=n)
        for which, n in (("best", 1), ("mean", None))
        for *_, column in BEST_AND_MEAN
    ]
    caption = captioned(
        "Best: the run with the highest last accuracy on the validation split (n = 1); it shows "
        f"what luck can reach, and compares nothing. {INTERVALS}",
        "Error: share of the test split "
        "that is answered wrongly. I(E;Ŷ): mutual information of the expert (by the gates) with "
        "the predicted class, not corrected for its bias; H_s: mean entropy of the gates; H_u: "
        "entropy of the mean gates. Means over the MoE layers.",
    )
    return caption, (*LEAD, *columns), rows


def best_seed(study: StudyData, entry: Entry) -> int | None:
    """Return the seed with the highest last validation accuracy (the first of equals), or None."""
    rows = study.rows("val_top1", entry).sort_values(["step", "seed"])
    last = rows.drop_duplicates("seed", keep="last").sort_values("seed")
    return None if last.empty else int(last.loc[last["value"].idxmax(), "seed"])


ENTROPY_CAPTION = captioned(
    "Entropies over the test split, in bits, mean over the MoE layers. H_s: mean entropy of a "
    "token's distribution over experts (0 is decided); H_u: entropy of the mean distribution (log2 "
    "E, dashed, is even use). Large marker: mean over the seeds ({counts}); bars: 95 % Student t "
    "intervals (none where n = 1); dots: the seeds.",
    f"H_s cannot exceed H_u (grey). {CUT}",
)
OF = {"gates": "gates: what the router wanted", "combine": "combine weights: what it did"}


@as_figures("entropy", "How decided, how even: H_s against H_u", "entropy")
def draw_entropy(study: StudyData, condition: Condition) -> Sketch:
    """Draw a panel for the gates and one for the combine weights."""
    entries = [e for e in study.under(condition) if len(study.final("H_s", e, of="gates"))]
    if not entries:
        raise Lacking(why_without(study, "entropy", "entropies"))
    means = [study.final("H_u", e, of=of, kind="soft").mean() for e in entries for of in OF]
    lowest = min(mean for mean in means if mean == mean)
    rows = study.trials[study.trials["entry"].isin(entries)]
    top = log2(max(int(rows["num_experts"].max()), 2))
    figure, axes = panels(len(OF), 2, PAGE, 2.0 + 0.07 * len(entries))
    for (of, label), place in zip(OF.items(), axes, strict=True):
        place.set_title(label)
        _panel(place, study, entries, of, lowest, top)
    styles = {entry.system: study.styles[entry.system] for entry in entries}
    router_legend(figure, styles, 3, linestyle="none")
    counts = number_of_runs({e.system: len(study.final("H_s", e, of="gates")) for e in entries})
    return ENTROPY_CAPTION.format(counts=counts), figure, entries


def _panel(
    axes: Axes, study: StudyData, entries: list[Entry], of: str, lowest: float, top: float
) -> None:
    axes.fill_between([0, top * 1.06], [0, top * 1.06], color=GRID, alpha=0.5, lw=0)
    axes.axhline(top, color=FAINT, lw=0.8, ls=(0, (4, 2)))
    across_ends, up_ends = (-0.04 * top, 1.06 * top), (lowest - 0.05 * top, 1.06 * top)
    blended = axes.get_yaxis_transform()
    axes.annotate(
        "$\\log_2 E$", (1.01, top), xycoords=blended, va="center", color=FAINT, parse_math=True
    )
    for entry in entries:
        style = study.styles[entry.system]
        across = study.final("H_s", entry, of=of)
        up = study.final("H_u", entry, of=of, kind="soft").reindex(across.index)
        if across.empty or up.isna().any():
            continue
        h_s, h_u = mean_interval(list(across)), mean_interval(list(up))
        axes.scatter(across, up, s=5, color=style.colour, lw=0)
        bars: dict[str, Any] = {"xerr": halves(h_s, across_ends), "yerr": halves(h_u, up_ends)}
        axes.errorbar([h_s.mean], [h_u.mean], **bars, **style.point, markersize=6, elinewidth=0.9)
        mark_cut(axes, h_s, across_ends, h_u.mean, style.colour)
        mark_cut(axes, h_u, up_ends, h_s.mean, style.colour, upright=True)
    axes.set_xlim(*across_ends)
    axes.set_ylim(*up_ends)
    axes.set_xlabel("$H_s$ (bit); lower: more decided", parse_math=True)
    axes.set_ylabel("$H_u$ (bit); higher: more even", parse_math=True)
