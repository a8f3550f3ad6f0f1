"""The protocol of a study as a methods section, filled from what was asked for and what ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from report.comparisons import comparisons, nulls
from report.latex import latex_heading, latex_text
from report.study import StudyData
from report.topics import provenance, tuning
from report.topics.compute import MATCHED
from results.statistics.means import ALPHA
from results.text import counted

Paragraph = tuple[str, str]
"""A heading and what stands under it."""
LAYERS = {
    "last2": "in the last two of every second block",
    "every2": "in every second block",
    "all": "in every block",
    "every_mlp": "in the place of every MLP",
    "head": "in the place of the classifier",
}


def methods(study: StudyData) -> list[Paragraph]:
    """Return the paragraphs; what a study does not have is left out."""
    preset = study.record.request.get("preset", {})
    paragraphs = [
        ("Data and model", _data(study, preset)),
        ("Routers", _routers(study, preset)),
        ("Training", _training(study, preset)),
        ("Budget and tuning", _budget(study, preset)),
        ("Seeds and comparisons", _comparisons(study)),
        ("Hardware and software", _machines(study)),
    ]
    return [(heading, " ".join(filter(None, said))) for heading, said in paragraphs if any(said)]


def methods_markdown(study: StudyData) -> str:
    """Write the paragraphs as Markdown."""
    parts = [f"## {heading}\n\n{text}" for heading, text in methods(study)]
    return "\n\n".join(["# Methods", *parts]) + "\n"


def methods_latex(study: StudyData) -> str:
    """Write the paragraphs as LaTeX, to be taken into a section."""
    parts = [
        rf"\paragraph{{{latex_text(heading)}.}} {latex_heading(text)}"
        for heading, text in methods(study)
    ]
    return "\n\n".join(parts) + "\n"


def _data(study: StudyData, preset: Mapping[str, Any]) -> list[str]:
    data, model = preset.get("data", {}), preset.get("model", {})
    sets = sorted(study.trials["data"].unique())
    said = [f"Models were trained on {_listed(sets)}."] if sets else []
    augment = data.get("augment", {})
    changes = {
        "random crops after padding": augment.get("crop_padding"),
        "random flips": augment.get("flip"),
        f"RandAugment ({augment.get('randaugment')})": augment.get("randaugment"),
    }
    if used := [name for name, there in changes.items() if there]:
        said.append(f"Training images were augmented by {_listed(used)}.")
    names = sorted(study.trials["model"].unique())
    if not names:
        return said
    options = model.get("options", {}) if names == [model.get("name")] else {}
    settings = ", ".join(f"{key} = {value}" for key, value in options.items())
    said.append(f"The backbone is timm's {_listed(names)}{f' ({settings})' if settings else ''}.")
    if where := model.get("layers"):
        blocks = LAYERS.get(where) if isinstance(where, str) else f"in the blocks {where}"
        said.append(f"MoE layers stand {blocks}; tokens are routed {_scope(model['groups'])}.")
    return said


def _scope(groups: str | int) -> str:
    named = {"image": "within each image", "batch": "over the whole batch"}
    return named.get(str(groups), f"in groups of {groups} tokens")


def _routers(study: StudyData, preset: Mapping[str, Any]) -> list[str]:
    cards = {card["name"]: card for card in provenance.router_cards(study)}
    routers = [system for system in study.systems if not study.is_baseline(system)]
    baselines = [system.label for system in study.systems if study.is_baseline(system)]
    named = []
    for system in routers:
        source = cards.get(system.router, {}).get("source") or ""
        named.append(f"{system.label} ({source})" if source else system.label)
    said = [f"Compared are {_listed(named)}."] if named else []
    if baselines:
        said.append(f"Baselines without a learned router are {_listed(baselines)}.")
    if experts := preset.get("experts", {}):
        said.append(
            f"A layer has {experts['num_experts']} experts ({experts['name']}), unless the router "
            "or the condition says otherwise."
        )
    if len(study.conditions) > 1:
        labels = [str(condition) for condition in study.conditions]
        said.append(f"Conditions: {'; '.join(labels)}.")
    return said


def _training(study: StudyData, preset: Mapping[str, Any]) -> list[str]:
    train = preset.get("train")
    if not train or study.trials.empty:
        return []
    said = [
        f"Models were trained by AdamW, learning rate {train['lr']:g}, weight decay "
        f"{train['weight_decay']:g}, in batches of {train['batch_size']}, with a linear warm-up "
        f"over {100 * train['warmup']:g} % of the steps and a cosine decay to 0.",
        f"Label smoothing was {train['label_smoothing']:g}.",
        f"Gradients were clipped at the norm {train['clip_norm']:g}." if train["clip_norm"] else "",
        f"Weights were averaged (decay {train['ema']:g})." if train["ema"] else "",
    ]
    if losses := train["losses"]:
        named = [f"{name} (weight {weight:g})" for name, weight in losses.items()]
        said.append(f"Auxiliary losses, where they have a meaning: {_listed(named)}.")
    return [*said, f"Precision: {train['precision']}."]


def _budget(study: StudyData, preset: Mapping[str, Any]) -> list[str]:
    said = []
    match = study.compute.get("match")
    if match and not any("compute.match" in entry.condition.mapping for entry in study.entries):
        epochs = preset.get("train", {}).get("epochs")
        said += [
            f"Equal between routers: {MATCHED[match]}.",
            f"The budget is what the dense model takes in {counted(epochs, 'epoch')}."
            if epochs and match != "wall_clock"
            else "",
            "FLOPs are counted from what ran, forward and backward, without the optimiser's.",
        ]
    return [*said, tuning.sentence(study)]


def _comparisons(study: StudyData) -> list[str]:
    seeds = study.trials.groupby("entry", sort=False)["seed"].nunique()
    if seeds.empty:
        return []
    least, most = int(seeds.min()), int(seeds.max())
    each = counted(most, "seed") if least == most else f"{least} to {most} seeds"
    said = [
        f"Each system was trained with {each}. Runs of one seed share the data order and the "
        "initial weights of all but the MoE layers, so differences are paired by seed."
    ]
    if any(c.adjusted is not None for c in comparisons(study)):
        against = _listed([null.label for null in nulls(study)])
        said.append(
            "Declared before training were all pairs of routers"
            + (f", and each router against {against}" if against else "")
            + ". Within a condition, variances are moderated over the systems (Smyth, 2004), and "
            "p-values and intervals of differences hold for the whole family at once; resolved "
            f"means a p-value below {ALPHA:g}."
        )
    stopped = study.trials[~study.trials["status"].isin(["done", "waiting", "running"])]
    if not stopped.empty:
        said.append(f"{counted(len(stopped), 'trial')} did not finish, and left no number.")
    return said


def _machines(study: StudyData) -> list[str]:
    machines, codes = provenance.machines(study), provenance.codes(study)
    said = []
    if machines:
        named = [
            f"{each['hardware']} ({counted(int(each['threads']), 'thread')})" for each in machines
        ]
        said.append(f"Hardware: {_listed(dict.fromkeys(named))}.")
    for code in codes:
        libraries = ", ".join(f"{name} {version}" for name, version in code["libraries"].items())
        said.append(
            f"Software: commit {code['commit'][:12]}, Python {code['python']}, {libraries}."
        )
    return said


def _listed(names: Iterable[str]) -> str:
    """Join names: `a, b and c`."""
    *most, last = list(names) or [""]
    return f"{', '.join(most)} and {last}" if most else last
