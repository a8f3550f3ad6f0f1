"""The protocol of a study as a methods section, filled in from its request and from what ran."""

from collections.abc import Iterable, Mapping
from typing import Any

from report.cells import READING
from report.comparisons import comparisons, nulls
from report.latex import latex_heading, latex_text
from report.study import StudyData
from report.topics import provenance, tuning
from report.topics.compute import MATCHED
from results.statistics.means import ALPHA
from results.text import counted

Paragraph = tuple[str, str]
"""A heading and its text."""
LAYERS = {
    "last2": "in the last two of the even-numbered blocks",
    "every2": "in the even-numbered blocks",
    "all": "in every block",
    "every_mlp": "in place of every MLP",
    "head": "in place of the classifier",
}
GROUPS = {"image": "within each image", "batch": "over the whole batch"}


def methods(study: StudyData) -> list[Paragraph]:
    """Return the paragraphs, leaving out what does not apply to the study."""
    preset = study.record.request.get("preset", {})
    paragraphs = [
        ("Data and model", _data(study, preset)),
        ("Routers", _routers(study, preset)),
        ("Training", _training(study, preset)),
        ("Budget and tuning", _budget(study, preset)),
        ("Seeds and comparisons", _comparisons(study)),
        ("Tables", [] if study.trials.empty else [READING]),
        ("Hardware and software", _machines(study)),
    ]
    return [(heading, " ".join(filter(None, said))) for heading, said in paragraphs if any(said)]


def methods_markdown(study: StudyData) -> str:
    """Return the paragraphs as Markdown."""
    parts = [f"## {heading}\n\n{text}" for heading, text in methods(study)]
    return "\n\n".join(["# Methods", *parts]) + "\n"


def methods_latex(study: StudyData) -> str:
    """Return the paragraphs as LaTeX, to be included in a section."""
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
        blocks = (
            LAYERS.get(where)
            if isinstance(where, str)
            else f"in blocks {_listed(map(str, where))}, counted from 0"
        )
        groups = GROUPS.get(model["groups"], f"in groups of {model['groups']} tokens")
        said.append(f"MoE layers are {blocks}; tokens are routed {groups}.")
    return said


def _routers(study: StudyData, preset: Mapping[str, Any]) -> list[str]:
    cards = {card["name"]: card for card in provenance.router_cards(study)}
    routers = [system for system in study.systems if not study.is_baseline(system)]
    baselines = [system.label for system in study.systems if study.is_baseline(system)]
    named = []
    for system in routers:
        source = cards.get(system.router, {}).get("source") or ""
        named.append(f"{system.label} ({source})" if source else system.label)
    said = [f"Routers compared: {_listed(named)}."] if named else []
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
    settings = {
        "train.lr": f"learning rate {train['lr']:g}",
        "train.weight_decay": f"weight decay {train['weight_decay']:g}",
        "train.batch_size": f"batches of {train['batch_size']}",
        "train.label_smoothing": f"label smoothing {train['label_smoothing']:g}",
        "train.clip_norm": f"gradients clipped at norm {train['clip_norm'] or 'infinity'}",
        "train.ema": f"weights averaged with decay {train['ema']}" if train["ema"] else "",
        "train.precision": f"precision {train['precision']}",
    }
    losses = [f"{name} (weight {weight:g})" for name, weight in train["losses"].items()]
    settings["train.losses"] = f"auxiliary losses {_listed(losses)}" if losses else ""
    tuned = {path for each in tuning.tuned(study).values() for path in each.settings}
    varied = tuned | _swept(preset)
    fixed = [
        text
        for path, text in settings.items()
        if text and not any(other == path or other.startswith(f"{path}.") for other in varied)
    ]
    return [
        f"Models were trained by AdamW, with a linear warm-up over {100 * train['warmup']:g} % of "
        "the steps and a cosine decay to 0.",
        f"Fixed settings: {_listed(fixed)}." if fixed else "",
        f"Settings tuned for each router: {_listed(sorted(tuned))}; the tuning table has the "
        "values."
        if tuned
        else "",
        *(_part(part, preset) for part in preset.get("parts", []) if part.get("set")),
    ]


def _swept(preset: Mapping[str, Any]) -> set[str]:
    """Return the paths of settings that the preset sweeps or that one of its parts changes."""
    parts = preset.get("parts", [])
    of_parts = (
        path for part in parts for where in ("set", "sweep") for path in part.get(where, {})
    )
    return {*preset.get("sweep", {}), *of_parts}


def _part(part: Mapping[str, Any], preset: Mapping[str, Any]) -> str:
    """Describe what a part of the preset set for its routers (all of them if it names none)."""
    routers = part["routers"] or preset["routers"]
    settings = [f"{path} = {value}" for path, value in part["set"].items()]
    return f"{_listed(routers)} had {_listed(settings)}."


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
            "FLOPs are counted from what ran, forward and backward, without the optimiser.",
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
            "The comparisons declared before training are all pairs of routers"
            + (f", and each router against {against}" if against else "")
            + ". Variances are moderated over the systems and conditions (Smyth, 2004), and "
            "p-values and intervals of differences hold for the whole family at once; resolved "
            f"means a p-value below {ALPHA:g}."
        )
    stopped = study.trials[~study.trials["status"].isin(["done", "waiting", "running"])]
    if not stopped.empty:
        said.append(f"{counted(len(stopped), 'trial')} did not finish and left no result.")
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
        commit = code["commit"][:12] + (" with changes" if code["changed"] else "")
        said.append(f"Software: commit {commit}, Python {code['python']}, {libraries}.")
    return said


def _listed(names: Iterable[str]) -> str:
    """Join names, such as `a, b and c`."""
    *most, last = list(names) or [""]
    return f"{', '.join(most)} and {last}" if most else last
