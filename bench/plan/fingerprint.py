"""The identity of a trial: its description, its data, and the source code that it depends on."""

import hashlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.config import DataConfig, TrialSpec
from bench.data import LazyImages, channel_histogram, channel_moments
from bench.measure import LayerOfTrial, TrainedTrial
from bench.model import (
    EXPERTS,
    TRANSFORMS,
    Origin,
    defining_files,
    image_classifier,
    model_origin,
    pretrained_hash,
    trial_model,
)
from bench.plan.definitions import Definition, Definitions
from bench.plan.user_code import combined, is_own, user_sources
from bench.train import train_trial
from moe_router_bench import PACKAGES
from results.store.records import TrialRecord
from results.text import to_json
from routers import AFFINITIES, LOSSES, ROUTERS, Baseline, Entry

# Images in memory are identified by their content. Images decoded during training, and the values
# that pixels are normalised by, depend on code.
TRAINING = (train_trial, image_classifier, LazyImages, channel_histogram, channel_moments)
"""Entry points to the code of the training protocol."""
UNTRAINED = (trial_model, image_classifier, LayerOfTrial, TrainedTrial)
MEASURED = (LayerOfTrial, TrainedTrial)
"""Entry points to the code of what suites measure: models, layers and model stats."""


@dataclass(frozen=True)
class Part:
    """One thing that a fingerprint covers.

    Attributes:
        kind: "router", "experts", "loss", "affinity", "model", "protocol", "data", "weights"; for a
            derived trial also "transform" and "parent", whose digest is the parent's fingerprint.
        digest: SHA-256 (hex).
        definitions: if the part is code, by name: the SHA-256 of each definition and each of the
            user's modules, and the version of each installed distribution.
    """

    kind: str
    name: str
    digest: str
    definitions: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def label(self) -> str:
        """The kind and name, for display."""
        return f"{self.kind} {self.name!r}"


@dataclass(frozen=True)
class Fingerprint:
    """A description as plain data, and the parts: all else that the outcome depends on."""

    description: dict[str, Any]
    parts: tuple[Part, ...]

    @cached_property
    def value(self) -> str:
        """The SHA-256 (hex) of the description and all parts."""
        digests = sorted((part.kind, part.name, part.digest) for part in self.parts)
        text = to_json([identity(self.description), digests])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def parent(self) -> str | None:
        """The fingerprint of the trial that a derived one starts from, or None."""
        return next((part.digest for part in self.parts if part.kind == "parent"), None)


class Fingerprints:
    """The fingerprints of trials, layers and components; each component's code is read once."""

    def __init__(self, definitions: Definitions | None = None) -> None:
        self._definitions = definitions or Definitions()
        self._parts: dict[tuple[str, str], Part] = {}

    def trial(self, spec: TrialSpec, hash_of: Callable[[DataConfig], str]) -> Fingerprint:
        """Return the fingerprint of a trial; `hash_of` gives the content hash of its data."""
        data = Part("data", spec.data.name, hash_of(spec.data))
        components = map(self.component, components_of(spec))
        parts = (*components, self._protocol("training", TRAINING), data, *self._model(spec))
        if spec.parent is not None and spec.transform is not None:
            parent = Part("parent", spec.parent.router.name, self.trial(spec.parent, hash_of).value)
            parts += (self.component(TRANSFORMS.get(spec.transform)), parent)
        return Fingerprint(spec.model_dump(mode="json"), parts)

    def layer(self, spec: TrialSpec) -> Fingerprint:
        """Return the fingerprint of a trial's layers and model before training, without data."""
        made_of = [each for each in components_of(spec) if each.kind != "loss"]
        components = map(self.component, made_of)
        parts = (*components, self._protocol("model", UNTRAINED), *self._model(spec))
        return Fingerprint(layer_description(spec), parts)

    def component(self, entry: Entry) -> Part:
        """Return the part of a registered component: its definition and all that it depends on."""
        return self._source(entry.kind, entry.name, lambda: ({}, [entry.target]))

    def suite(self, entry: Entry) -> str:
        """Return the SHA-256 (hex) of the code of a suite and of its subjects."""
        subject = self._protocol("subject", MEASURED)
        return combined([self.component(entry).digest, subject.digest])

    def _model(self, spec: TrialSpec) -> tuple[Part, ...]:
        """Return a model's parts: its source or version, and the content of its weights file."""
        name, file = spec.model.name, spec.model.weights
        model = self._source("model", name, lambda: model_origin(name))
        if file is None:
            return (model,)
        key = ("weights", file)
        if key not in self._parts:
            self._parts[key] = Part("weights", name, pretrained_hash(file))
        return (model, self._parts[key])

    def _protocol(self, name: str, roots: Iterable[Any]) -> Part:
        return self._source("protocol", name, lambda: ({}, roots))

    def _source(self, kind: str, name: str, origin: Callable[[], Origin]) -> Part:
        """Return a part made of distributions, and of objects with everything that defines them."""
        key = (kind, name)
        if key in self._parts:
            return self._parts[key]
        versions, targets = origin()
        own, files = set[Definition](), set[Path]()
        for target in targets:
            inner = inspect.unwrap(target)
            module, outer = getattr(inner, "__module__", ""), getattr(inner, "__qualname__", "")
            if module.partition(".")[0] in PACKAGES:
                own |= self._definitions.of(module, outer.partition(".")[0])
            files.update(file for file in defining_files(target) if not is_own(file))
        users = user_sources(files).values()
        for source in users:
            own = own.union(*map(self._definitions.meant_by, source.references))
        code = self._definitions.code(own)
        digests = [*code.digests, *((source.module, source.digest) for source in users)]
        installed = [" ".join(each) for each in versions.items()]
        digest = combined([*installed, *(source.digest for source in users), *code.lines])
        by_name: dict[str, list[str]] = defaultdict(list)
        for each, of_name in sorted(digests):
            by_name[each].append(of_name)
        listed = {each: of[0] if len(of) == 1 else combined(of) for each, of in by_name.items()}
        self._parts[key] = Part(kind, name, digest, {**versions, **listed})
        return self._parts[key]


def components_of(spec: TrialSpec) -> list[Entry]:
    """List a trial's components; for a baseline, itself and the experts that widen it, if any."""
    router = ROUTERS.get(spec.router.name)
    if issubclass(router.target, Baseline):
        return [router, EXPERTS.get(spec.experts.name)] if router.target.widen else [router]
    losses = [LOSSES.get(name) for name in sorted(spec.train.losses)]
    # An affinity may be built on another one, which its options name.
    options = spec.router.options
    named = [options.get("affinity"), *options.get("affinity_options", {}).values()]
    affinities = [entry for entry in AFFINITIES.entries() if entry.name in named]
    return [router, *affinities, EXPERTS.get(spec.experts.name), *losses]


def layer_description(spec: TrialSpec) -> dict[str, Any]:
    """Describe a trial before training, without recipe and seed."""
    trained = dict.fromkeys(("train", "compute", "seed", "parent", "transform"), True)
    return spec.model_dump(mode="json", exclude={**trained, "data": {"augment"}})


def identity(description: dict[str, Any]) -> dict[str, Any]:
    """Return the description without the paths of data and weights, which affect no result."""
    data = {name: value for name, value in description["data"].items() if name != "data_dir"}
    model = {name: value for name, value in description["model"].items() if name != "weights"}
    same = {**description, "data": data, "model": model}
    return same | {"parent": identity(same["parent"])} if "parent" in same else same


NO_SOURCE = ("data", "parent", "weights")
"""Kinds of parts that are not code."""


def differences(now: Fingerprint, then: TrialRecord) -> list[str]:
    """List the differences between a fingerprint and a stored trial, in words."""
    before = {(part.kind, part.name): part.source_hash for part in then.components}
    current = {(part.kind, part.name): part for part in now.parts}
    shared = [part for key, part in current.items() if key in before]
    changed = [part for part in shared if before[part.kind, part.name] != part.digest]
    kinds = {
        "changed data": [repr(part.name) for part in changed if part.kind == "data"],
        "changed parent": [repr(part.name) for part in changed if part.kind == "parent"],
        "changed content of the weights file": [
            repr(now.description["model"]["weights"]) for part in changed if part.kind == "weights"
        ],
        "changed source": [part.label for part in changed if part.kind not in NO_SOURCE],
        "new": [part.label for key, part in current.items() if key not in before],
        "gone": [f"{kind} {name!r}" for kind, name in before.keys() - current.keys()],
    }
    old, new = _flat(identity(then.description)), _flat(identity(now.description))
    described = [
        f"{path} is {new.get(path, 'unset')}, was {old.get(path, 'unset')}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
    return described + [f"{kind}: {', '.join(labels)}" for kind, labels in kinds.items() if labels]


def _flat(value: object, path: str = "") -> dict[str, str]:
    """Map the path of each value, such as `train.lr`, to its JSON."""
    if isinstance(value, dict):
        parts = (_flat(inner, f"{path}.{key}" if path else key) for key, inner in value.items())
        return {name: text for part in parts for name, text in part.items()}
    return {path: to_json(value)}
