"""Experts of several kinds: the share of tokens that each kind processes, and what that saves."""

from collections.abc import Mapping

import numpy as np

from report.cells import INTERVALS, LEAD, mean_cell, measured_by, metric_cell, metric_row
from report.conditions import Entry
from report.study import StudyData
from report.style import PAGE, folded, panels
from report.table import MISSING, Cell, Column, Lacking, words
from report.topics.make import Contents, Sketch, as_figures, as_table
from report.topics.specialization import class_names
from results.conditions import Condition

KINDS = {"mlp": "#4C6A92", "constant": "#C98B3B", "copy": "#7DA87B", "zero": "#C9C4BC"}
"""Kinds of experts, the expensive one first, with their colours."""
PLAIN = "softmax_token_choice"
NONE = "no experts of several kinds, such as heterogeneous"


@as_table("kinds", "Experts of several kinds", "entropy", "accuracy")
def table(study: StudyData) -> Contents:
    """Make a row for each router and condition whose experts are of several kinds."""
    entries = [e for e in measured_by(study, "entropy") if len(study.rows("kind_share", e))]
    if not entries:
        raise Lacking(NONE, fine=True)
    rows = []
    for entry in entries:
        cells = [metric_cell(study, "kind_share", entry, kind_of_expert=kind) for kind in KINDS]
        cells += [metric_cell(study, "flops_per_image", entry), saved(study, entry)]
        rows.append(metric_row(study, entry, cells))
    columns = [Column(f"kind_{kind}", kind, "%", scale=100, digits=1) for kind in KINDS]
    columns += [
        Column("flops_per_image", "an image", "FLOP", si=True),
        Column("flops_saved", "saved", "%", "higher", 100, 1),
    ]
    caption = (
        "Share of each kind of expert in the experts that processed a token, over the test split, "
        "mean over the MoE layers: MLPs, and experts that cost next to nothing. FLOPs of an image "
        f"forward, as counted from what ran; saved: relative to {PLAIN} of the study, whose "
        f"experts are all MLPs, with the same seeds. {INTERVALS}"
    )
    return caption, (*LEAD, *columns), rows


def saved(study: StudyData, entry: Entry) -> Cell:
    """Show the share of an image's FLOPs that an entry saves compared with the plain router."""
    plain = [
        study.final("flops_per_image", other)
        for other in study.under(entry.condition)
        if other.system.router == PLAIN and other.system != entry.system
    ]
    if not plain:
        return words(MISSING)
    share = (1 - study.final("flops_per_image", entry) / plain[0]).dropna()
    return mean_cell(study, entry, share) if len(share) else words(MISSING)


CAPTION = (
    "Share of each kind of expert in the experts that processed the tokens of a class, over the "
    "test split; a panel for each router and MoE layer, in network order, from 0. Mean over the "
    "seeds ({counts})."
)


@as_figures("kinds", "Kinds of experts, by layer and class", "entropy")
def draw(study: StudyData, condition: Condition) -> Sketch:
    """Draw a stacked bar for each class, in a panel for each router and MoE layer."""
    drawn = {entry: own for entry in study.under(condition) if (own := layers(study, entry))}
    if not drawn:
        raise Lacking(NONE, fine=True)
    first = {entry: study.array("class_kind", entry)[0] for entry in drawn}
    names = class_names(study, first)
    number = sum(map(len, drawn.values()))
    figure, axes = panels(number, 2, PAGE, 2.2, sharey=True)
    places = iter(axes)
    for entry, own in drawn.items():
        for layer, by_kind in own.items():
            place, bottom = next(places), np.zeros(1)
            for kind, colour in KINDS.items():
                if kind in by_kind:
                    height = 100 * by_kind[kind]
                    place.bar(range(len(height)), height, 0.8, bottom, color=colour, label=kind)
                    bottom = bottom + height
            place.set_title(f"{folded(str(entry.system), 36)}\nlayer {layer}")
            ticks = range(len(next(iter(by_kind.values()))))
            place.set_xticks(ticks, names or list(map(str, ticks)), rotation=60, ha="right")
            place.set_ylim(0, 100)
    for place in axes[::2]:
        place.set_ylabel("share (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    counts = "; ".join(
        f"{entry.system} n = {len({r.seed for r in study.array('class_kind', entry)})}"
        for entry in drawn
    )
    return CAPTION.format(counts=counts), figure, drawn


def layers(study: StudyData, entry: Entry) -> Mapping[int, Mapping[str, np.ndarray]]:
    """Return the share of each kind by class, (classes,), averaged over seeds, by layer and kind.

    Empty if all experts are of one kind.
    """
    names = {each.layer: list(map(str, each.values)) for each in study.array("kind_names", entry)}
    tables: dict[int, list[np.ndarray]] = {}
    for record in study.array("class_kind", entry):
        tables.setdefault(record.layer or 0, []).append(np.asarray(record.values, dtype=float))
    return {
        layer: dict(zip(names[layer], np.mean(own, axis=0).T, strict=True))
        for layer, own in tables.items()
    }
