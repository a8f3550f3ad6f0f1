"""Components by name, and the rows that a plan writes before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from bench.data import DATASETS, find_dataset
from bench.model import EXPERTS, TRANSFORMS
from bench.plan.fingerprint import Part
from bench.plan.plan import Plan, Planned
from results import Component, Store, Subject
from routers import AFFINITIES, LOSSES, ROUTERS, Entry, Registry, RequestError
from routers.errors import nearest, unknown
from suites import SUITES

REGISTRIES: dict[str, Registry] = {
    "routers": ROUTERS,
    "experts": EXPERTS,
    "affinities": AFFINITIES,
    "losses": LOSSES,
    "suites": SUITES,
    "datasets": DATASETS,
}
"""Registries by kind, in the order in which names are looked up and listed."""


def record_plan(plan: Plan, store: Store) -> dict[str, int]:
    """Write a plan's study with its trials and layers; existing rows stay.

    A later request does not undo the interim analyses that a study was planned with.

    Returns:
        The row of each trial and layer, by fingerprint.
    """
    name = plan.request.study
    before = next((each.request for each in store.studies() if each.name == name), {})
    kept = {"sequential": before["sequential"]} if "sequential" in before else {}
    study = store.study(name, {**kept, **plan.request.record()})
    return add_to_study(study, plan.trials, plan.layers, store)


def add_to_study(
    study: int, trials: Sequence[Planned], layers: Sequence[Planned], store: Store
) -> dict[str, int]:
    """Add trials and layers to a study; existing rows stay. Returns the same as `record_plan`."""
    planned = [*trials, *layers]
    parts = dict.fromkeys(part for each in planned for part in each.fingerprint.parts)
    suites = {(suite.name, suite.source_hash) for each in planned for suite in each.suites}
    parts |= dict.fromkeys(Part("suite", *suite) for suite in sorted(suites))
    # What several trials share is written once.
    written = store.components([component_of(part) for part in parts])
    components = dict(zip(parts, written, strict=True))
    trial_rows = store.trials([_subject(each, components) for each in trials])
    layer_rows = store.layers([_subject(each, components) for each in layers])
    store.add_trial_to_study(study, *trial_rows)
    store.add_layer_to_study(study, *layer_rows)
    names = [each.fingerprint.value for each in planned]
    return dict(zip(names, (*trial_rows, *layer_rows), strict=True))


def find_component(name: str) -> Entry:
    """Return a component by its name or by `kind:name`; a router takes precedence.

    A data set whose name takes an argument is found by a name with an argument.

    Raises:
        RequestError: no component has that name, or several have it and none is a router.
    """
    kind, colon, own = name.partition(":")
    families = [each.partition(":")[0] for each in DATASETS.names() if ":" in each]
    if colon and kind not in families:
        registry = find_registry(kind)
        return find_dataset(own)[0] if registry is DATASETS else registry.get(own)
    if colon:
        return find_dataset(name)[0]
    registries = [registry for registry in REGISTRIES.values() if name in registry.names()]
    if not registries:
        known = [own for registry in REGISTRIES.values() for own in registry.names()]
        raise RequestError(f"no component is named {name!r}{unknown(name, known)}")
    if len(registries) > 1 and registries[0] is not ROUTERS:
        choices = " or ".join(f"{registry.kind}:{name}" for registry in registries)
        raise RequestError(f"several components are named {name!r}; use {choices}")
    return registries[0].get(name)


def find_registry(kind: str) -> Registry:
    """Return the registry of a kind, given in the plural or the singular.

    Raises:
        RequestError: there is no such kind.
    """
    kinds = REGISTRIES | {registry.kind: registry for registry in REGISTRIES.values()}
    if kind not in kinds:
        raise RequestError(f"there is no kind {kind!r} of components{nearest(kind, REGISTRIES)}")
    return kinds[kind]


def component_of(part: Part) -> Component:
    """Return a part as a row, with its card if it is registered by name."""
    registries = (*REGISTRIES.values(), TRANSFORMS)
    registry = next((each for each in registries if each.kind == part.kind), None)
    if registry is None:
        listing = "\n".join(f"{name} {digest}" for name, digest in part.definitions.items())
        return Component(part.kind, part.name, listing, part.digest, definitions=part.definitions)
    entry = registry.get(part.name)
    target = entry.target
    metrics = [asdict(definition) for definition in getattr(target, "metrics", ())]
    for metric in metrics:  # the main metric also gets its `where`, if it has one
        if metric["name"] == target.main_metric and target.main_where:
            metric["where"] = target.main_where
    return Component(
        kind=part.kind,
        name=part.name,
        source_text=entry.source_text,
        source_hash=part.digest,
        family=entry.family,
        display=entry.display,
        summary=entry.summary,
        text=entry.text,
        source=entry.source,
        bibtex=entry.bibtex,
        hyper=[asdict(info) for info in entry.hyper],
        metrics=metrics,
        main_metric=getattr(target, "main_metric", None),
        definitions=part.definitions,
    )


def _subject(planned: Planned, components: Mapping[Part, int]) -> Subject:
    fingerprint = planned.fingerprint
    return Subject(
        fingerprint=fingerprint.value,
        description=fingerprint.description,
        components=[components[part] for part in fingerprint.parts],
        parent=fingerprint.parent,
        transform=planned.spec.transform if fingerprint.parent else None,
    )
