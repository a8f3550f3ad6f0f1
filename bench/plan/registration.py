"""What a plan is made of, written down before anything runs: the study, its trials, components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.model import TRANSFORMS
from bench.plan.components import REGISTRIES
from bench.plan.fingerprint import Part
from bench.plan.plan import Plan, Planned
from results import Component, Store, Subject
from routers import Registry

RECORDED: tuple[Registry, ...] = (*REGISTRIES.values(), TRANSFORMS)


@dataclass(frozen=True)
class Rows:
    """Row numbers of a plan's trials and layers, by fingerprint."""

    trials: dict[str, int]
    layers: dict[str, int]


def record_plan(plan: Plan, store: Store) -> Rows:
    """Write the study with all that it shows; what is there already stays."""
    name = plan.request.study
    study = store.study(name, {**_kept(name, store), **plan.request.record()})
    return add_to_study(study, plan.trials, plan.layers, store)


def add_to_study(
    study: int, planned_trials: Sequence[Planned], planned_layers: Sequence[Planned], store: Store
) -> Rows:
    """Write down what a study shows more; what is there already stays."""
    components = _components([*planned_trials, *planned_layers], store)
    trials = [_subject(planned, components) for planned in planned_trials]
    layers = [_subject(planned, components) for planned in planned_layers]
    rows = Rows(
        {trial.fingerprint: row for trial, row in zip(trials, store.trials(trials), strict=True)},
        {layer.fingerprint: row for layer, row in zip(layers, store.layers(layers), strict=True)},
    )
    store.add_trial_to_study(study, *rows.trials.values())
    store.add_layer_to_study(study, *rows.layers.values())
    return rows


def component_of(part: Part) -> Component:
    """The part as a row: with its card, where it is registered by name."""
    registry = next((registry for registry in RECORDED if registry.kind == part.kind), None)
    if registry is None:
        listing = "\n".join(f"{name} {digest}" for name, digest in part.definitions.items())
        return Component(part.kind, part.name, listing, part.digest, definitions=part.definitions)
    entry = registry.get(part.name)
    card = entry.card()
    return Component(
        kind=part.kind,
        name=part.name,
        source_text=card.source_text,
        source_hash=part.digest,
        family=card.family,
        summary=card.summary,
        text=card.text,
        source=card.source,
        bibtex=card.bibtex,
        hyper=[asdict(info) for info in card.hyper],
        metrics=list(_definitions(entry.target)),
        main_metric=getattr(entry.target, "main_metric", None),
        definitions=part.definitions,
    )


def _definitions(target: Any) -> Iterator[dict[str, Any]]:
    """A suite's metric definitions; the main metric's says `where` it ranks routers, if it does."""
    for definition in getattr(target, "metrics", ()):
        where = target.main_where if definition.name == target.main_metric else {}
        yield asdict(definition) | ({"where": where} if where else {})


def _kept(study: str, store: Store) -> dict[str, Any]:
    """What no later request undoes: a study that was looked at before has its tests held to it."""
    before = next((each.request for each in store.studies() if each.name == study), {})
    return {"sequential": before["sequential"]} if "sequential" in before else {}


def _subject(planned: Planned, components: Mapping[Part, int]) -> Subject:
    fingerprint = planned.fingerprint
    return Subject(
        fingerprint=fingerprint.value,
        description=fingerprint.description,
        components=[components[part] for part in fingerprint.parts],
        parent=fingerprint.parent,
        transform=planned.spec.transform if fingerprint.parent else None,
    )


def _components(planned: Sequence[Planned], store: Store) -> dict[Part, int]:
    """The row of each part and each suite; one that several trials share is written once."""
    suites = {(suite.name, suite.source_hash) for each in planned for suite in each.suites}
    parts = dict.fromkeys(part for each in planned for part in each.fingerprint.parts)
    parts |= dict.fromkeys(Part("suite", *suite) for suite in sorted(suites))
    return dict(zip(parts, store.components([component_of(part) for part in parts]), strict=True))
