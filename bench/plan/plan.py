"""From a request to its plan: trials, bare layers, and the suites that measure them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.config import Options, Preset, TrialSpec, presets_of, with_routers, with_settings
from bench.data import Datasets
from bench.plan.expand import conditions as preset_conditions
from bench.plan.expand import has_no_experts, selected_routers, solved_specs
from bench.plan.fingerprint import Fingerprint, Fingerprints
from bench.plan.router_options import (
    OPTIONS,
    PREFIX,
    affinity_of,
    affinity_options_in,
    refuse_unknown,
    refuse_unknown_options,
)
from bench.plan.sequential import Sequential
from results.conditions import conditions, label_of
from results.text import fault_of
from routers import ROUTERS, Baseline, Entry
from routers.errors import RequestError
from suites import SUITES


@dataclass(frozen=True)
class Request:
    """A user's request.

    Attributes:
        study: the name under which the results are stored together.
        preset: the preset with all overrides applied.
        suites: the suites that measure, with the options that were set.
        tuned: how each router's settings were tuned, see `bench.tune.best_settings`.
        sequential: the rule for when to stop adding seeds; None if their number is fixed.
    """

    study: str
    preset: Preset
    suites: Mapping[str, Options]
    tuned: Mapping[str, Any] = field(default_factory=dict)
    sequential: Sequential | None = None

    def record(self) -> dict[str, Any]:
        """Return the request as plain data, for the study's row."""
        record = {"preset": self.preset.record(), "suites": dict(self.suites)}
        if self.tuned:
            record["tuned"] = dict(self.tuned)
        if self.sequential is not None:
            record["sequential"] = self.sequential.record()
        return record


@dataclass(frozen=True)
class PlannedSuite:
    """A suite with its resolved options and the hash of its source."""

    name: str
    options: Options
    source_hash: str


@dataclass(frozen=True)
class Planned:
    """A trial or a bare layer, with its label (see `labels`) and the suites that measure it."""

    label: str
    spec: TrialSpec
    fingerprint: Fingerprint
    suites: tuple[PlannedSuite, ...]


@dataclass(frozen=True)
class Plan:
    """All the work that a request calls for, in the order in which it is done.

    Attributes:
        trials: trials to train and then measure; parents before the trials derived from them.
        layers: bare layers to measure without training; one for each router and condition.
    """

    request: Request
    trials: tuple[Planned, ...]
    layers: tuple[Planned, ...]


def make_request(
    preset: Preset,
    *,
    study: str | None = None,
    suites: Sequence[str] = (),
    routers: Sequence[str] = (),
    seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    sweep: Mapping[str, tuple[Any, ...]] | None = None,
    aa_replicates: bool = False,
) -> Request:
    """Return the request for a preset with a user's changes; None, empty or False changes nothing.

    Args:
        routers: `("all",)` selects every router, or all that the preset's parts name.
        settings: value by path, see `override`.
        sweep: values by path, added to the preset's.

    Raises:
        RequestError: a name or a value does not exist or does not fit.
    """
    settings, sweep = settings or {}, sweep or {}
    changed: dict[str, Any] = {"sweep": {**preset.sweep, **sweep}}
    if aa_replicates:
        changed["twins"] = True
    if seeds is not None:
        changed["seeds"] = seeds
    # A model other than the preset's gets only the options that the command gives; if a preset
    # sweeps over models, its options are meant for all of them.
    named = [*sweep.get("model.name", ()), settings.get("model.name", preset.model.name)]
    if "model.name" not in preset.sweep and any(name != preset.model.name for name in named):
        changed["model"] = preset.model.model_copy(update={"options": {}})
    if routers:
        preset = with_routers(preset, routers)
    preset = with_settings(preset.model_copy(update=changed), settings, sweep)
    hyper = [path.split(".")[1] for path in (*settings, *sweep) if path.startswith("router.")]
    chosen_routers = selected_routers(preset)
    # Only the command's: a preset's own settings may be meant for routers that are not chosen.
    refuse_unknown(hyper, chosen_routers)
    values: dict[str, Sequence[Any]] = {path: [value] for path, value in settings.items()}
    if options := _affinity_options({**values, **sweep}):
        refuse_unknown_options(options, _affinities_of(preset))
    if aa_replicates and all(issubclass(each.target, Baseline) for each in chosen_routers):
        raise RequestError("--aa retrains every router but baselines, and only these are chosen")
    names = suites or list(preset.suites)
    chosen = {SUITES.get(name).name: preset.suites.get(name, {}) for name in names}
    return Request(checked_name(study or preset.name), preset, chosen)


def _affinities_of(preset: Preset) -> list[Entry]:
    """List the affinities of a preset's routers, each once."""
    by_name = {
        affinity.name: affinity
        for whole in preset_conditions(preset)
        for part in presets_of(whole)
        for single in part
        for router in selected_routers(single)
        if (affinity := affinity_of(single, router)) is not None
    }
    return list(by_name.values())


def _affinity_options(values: Mapping[str, Sequence[Any]]) -> list[str]:
    """List the names of the affinity options that a command sets or sweeps."""
    named = [path.removeprefix(PREFIX).split(".")[0] for path in values if path.startswith(PREFIX)]
    whole = values.get(f"router.{OPTIONS}", ())
    return named + [name for each in whole for name in affinity_options_in({OPTIONS: each})]


def checked_name(name: str) -> str:
    """Return the name of a study or a tuning, if it is valid.

    Raises:
        RequestError: the name is not valid; the message gives the nearest valid one.
    """
    if fault := fault_of(name):
        raise RequestError(f"a study cannot be named {name!r}: {fault}; --study gives another name")
    return name


def make_plan(request: Request, datasets: Datasets) -> Plan:
    """Resolve a request into a plan; load its data, whose content is part of a trial's identity.

    Raises:
        BenchError: something does not exist or does not fit, or data is missing.
    """
    fingerprints = Fingerprints()
    specs = solved_specs(request.preset, datasets)
    on_trials = _suites(request, fingerprints, "trial")
    on_layers = _suites(request, fingerprints, "layer")
    trained = specs if on_trials or not on_layers else []
    trials = [
        Planned(label, spec, fingerprints.trial(spec, datasets.hash_of), on_trials)
        for label, spec in zip(labels(trained), trained, strict=True)
    ]
    bare = {}
    for spec in specs if on_layers else []:
        fingerprint = fingerprints.layer(spec)
        bare[fingerprint.value] = (spec, fingerprint)
    layer_labels = _labels([fingerprint.description for _, fingerprint in bare.values()])
    layers = [
        Planned(label, *each, on_layers)
        for label, each in zip(layer_labels, bare.values(), strict=True)
    ]
    return Plan(request, tuple(trials), tuple(layers))


def labels(specs: Sequence[TrialSpec]) -> list[str]:
    """Return each trial's router and what, besides the seed, tells that router's trials apart."""
    return _labels([spec.model_dump(mode="json") for spec in specs])


def _labels(descriptions: Sequence[Mapping[str, Any]]) -> list[str]:
    routers = [label_of(description) for description in descriptions]
    made = conditions(descriptions, list(filter(has_no_experts, ROUTERS.names())))
    return [f"{name} {condition}".strip() for name, condition in zip(routers, made, strict=True)]


def _suites(request: Request, fingerprints: Fingerprints, on: str) -> tuple[PlannedSuite, ...]:
    entries = [SUITES.get(name) for name in request.suites]
    return tuple(
        PlannedSuite(each.name, each.validate(request.suites[each.name]), fingerprints.suite(each))
        for each in entries
        if each.target.on == on
    )
