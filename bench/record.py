"""What a plan is made of, written down before anything runs: the study, its trials, components."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from bench.derive import TRANSFORMS
from bench.fingerprint import Part
from bench.plan import Plan
from bench.registries import REGISTRIES
from results import Component, Store
from routers import Registry
from suites import SUITES

RECORDED: tuple[Registry, ...] = (*REGISTRIES, TRANSFORMS, SUITES)


@dataclass(frozen=True)
class Rows:
    """Row numbers of a plan's trials and layers, by fingerprint."""

    trials: dict[str, int]
    layers: dict[str, int]


def record_plan(plan: Plan, store: Store) -> Rows:
    """Write the study with all that it shows; what is there already stays."""
    study = store.study(plan.request.study, plan.request.record())
    components = _Components(store)
    rows = Rows({}, {})
    for planned in plan.trials:
        identity = planned.fingerprint
        ids = components.rows(identity.parts)
        rows.trials[identity.value] = store.trial(
            identity.value,
            identity.description,
            rows.trials[identity.parent] if identity.parent else None,
            planned.spec.transform,
            ids,
        )
        store.add_trial_to_study(study, rows.trials[identity.value])
    for planned in plan.layers:
        identity = planned.fingerprint
        ids = components.rows(identity.parts)
        rows.layers[identity.value] = store.layer(identity.value, identity.description, ids)
        store.add_layer_to_study(study, rows.layers[identity.value])
    components.rows(
        Part("suite", suite.name, suite.source_hash)
        for planned in (*plan.trials, *plan.layers)
        for suite in planned.suites
    )
    return rows


def component_of(part: Part) -> Component:
    """The part as a row: with its card, where it is registered by name."""
    registry = next((registry for registry in RECORDED if registry.kind == part.kind), None)
    if registry is None:
        listing = "\n".join(f"{module} {digest}" for module, digest in part.modules.items())
        return Component(part.kind, part.name, listing, part.digest)
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
        metrics=[asdict(definition) for definition in getattr(entry.target, "metrics", ())],
        main_metric=getattr(entry.target, "main_metric", None),
    )


class _Components:
    """Their rows; a component that several trials share is written once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[tuple[str, str, str], int] = {}

    def rows(self, parts: Iterable[Part]) -> list[int]:
        found = []
        for part in parts:
            key = (part.kind, part.name, part.digest)
            if key not in self._rows:
                self._rows[key] = self._store.component(component_of(part))
            found.append(self._rows[key])
        return found
