"""Conditions: the settings that differ between the trials of a study."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.settings import PARENT, REPLICATE, Settings, comparable, flattened, leaves
from results.text import to_json

OWN = ("router.", "train.losses.", "train.loss_options.")
"""Settings that routers do not share: they count once the trials of one router differ in them."""
PLAIN = (
    *("experts.num_experts", "experts.name", "data.name", "model.name", "model.layers"),
    *("router.capacity_factor", "router.affinity", "train.lr"),
)
"""Settings by which a reader knows a trial best, the best first."""
MANY = 3
"""Settings that can be read at a glance."""
OPTIONS = "experts.options."
LACKED = ("experts.", "train.loss_options.")
"""Settings that a trial may lack without being set apart from those that have them."""


@dataclass(frozen=True, order=True)
class Condition:
    """Settings that set a trial or layer apart: pairs of a path, as `--set` takes it, and a value.

    Empty where nothing differs but router and seed. A value is a text or JSON.
    """

    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Condition:
        """Make the condition of a mapping, in its order."""
        return cls(tuple(settings.items()))

    @property
    def mapping(self) -> dict[str, str]:
        """The values by path."""
        return dict(self.settings)

    @property
    def label(self) -> str:
        """The settings for readers: `experts.num_experts=32 router.capacity_factor=2.0`."""
        return " ".join(f"{path}={value}" for path, value in self.settings)

    def __str__(self) -> str:
        return self.label

    def __bool__(self) -> bool:
        return bool(self.settings)

    def __add__(self, other: Condition) -> Condition:
        return Condition(self.settings + other.settings)

    def where(self, keep: Callable[[str], bool]) -> Condition:
        """Keep the settings whose paths are wanted."""
        return Condition(tuple(pair for pair in self.settings if keep(pair[0])))


def conditions(
    descriptions: Sequence[Mapping[str, Any]],
    baselines: Collection[str] = (),
    trained: Sequence[Mapping[str, Any]] = (),
) -> list[Condition]:
    """Find the condition of each description: settings that differ, besides router and seed.

    Once the trials of any router differ in a setting, the condition of every trial has its own
    value, a default as well, and `unset` where it could have one and has none. What differs only
    between routers, each of which has one value, is left out. Where many settings differ, those
    are left out that set nothing apart which others do not. A derived trial also has
    `transform=distill parent=soft_moe`, and each `parent.…` in which its siblings differ, unless
    their own settings always have the same value. What was found for a router alone, by tuning or
    by matching compute, sets nothing apart: its value is `found`.

    Args:
        baselines: routers without MoE layers, which no auxiliary loss and no experts concern.
        trained: where bare layers are described, the trials beside them: the layers' conditions
            have the settings that the trials' have.
    """
    kinds, distinct = _distinct(descriptions, baselines)
    others = _distinct(trained, baselines)[1].values()
    flat = flattened([*distinct.values(), *others])
    own, of_others = flat[: len(distinct)], flat[len(distinct) :]
    routers = [each["router"]["name"] for each in distinct.values()]
    if trained:
        of_trials = _shown([each["router"]["name"] for each in others], of_others)
        shown = [_of_layers(routers, own, set().union(*of_trials))] * len(own)
    else:
        shown = _shown(routers, own)
    by_kind = dict(zip(distinct, map(_condition, own, shown), strict=True))
    return [by_kind[kind] for kind in kinds]


def _distinct(
    descriptions: Sequence[Mapping[str, Any]], baselines: Collection[str]
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the kind of each description, whatever its seed and A/A replicate, and one of each."""
    described = [comparable(each, baselines) for each in descriptions]
    kinds = [to_json(_without_run(each)) for each in described]
    return kinds, dict(zip(kinds, described, strict=True))


def _without_run(description: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in description.items() if name not in ("seed", REPLICATE)}
    return rest | {"parent": _without_run(rest["parent"])} if "parent" in rest else rest


def router_label(router: str, aa_replicate: int) -> str:
    """Name a router for readers; its second run in the A/A control as `soft_moe (twin)`."""
    return f"{router} (twin)" if aa_replicate else router


def label_of(description: Mapping[str, Any]) -> str:
    """Name the router of a described trial or layer for readers."""
    return router_label(description["router"]["name"], description.get(REPLICATE, 0))


def option_conditions(measured: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Condition]:
    """Find the conditions of pairs of a suite and its options, by paths as `balance.batch_size`."""
    kinds = [(suite, to_json(options)) for suite, options in measured]
    distinct = dict(zip(kinds, measured, strict=True))
    flat = [dict(leaves(options, suite)) for suite, options in distinct.values()]
    suites = [suite for suite, _ in distinct]
    differing = {name: _differing(own) for name, own in _grouped(suites, flat).items()}
    made = [_condition(own, differing[name]) for own, name in zip(flat, suites, strict=True)]
    by_kind = dict(zip(distinct, made, strict=True))
    return [by_kind[kind] for kind in kinds]


def conditions_at(
    paths: Collection[str], descriptions: Sequence[Mapping[str, Any]]
) -> list[Condition]:
    """Return what each description has at these paths, of whatever studies the descriptions are.

    `conditions` chooses the paths by what differs within one study; those of several studies
    compare once each has the paths of all.
    """
    flat = flattened([comparable(each) for each in descriptions])
    return [_condition(settings, set(paths)) for settings in flat]


def _shown(routers: Sequence[str], settings: Sequence[Settings]) -> list[set[str]]:
    """Choose the paths that each trial's condition has."""
    # What sets all derived trials apart from the others is the transform's name.
    origins = [f"{each.get('transform')} {each.get('parent')}" for each in settings]
    derivation = _differing(settings) & {"transform", "parent"}
    shown = {}
    for origin in dict.fromkeys(origins):
        places = [place for place, name in enumerate(origins) if name == origin]
        alike = [settings[place] for place in places]
        shown[origin] = derivation | _of_origin([routers[place] for place in places], alike)
    return [shown[origin] for origin in origins]


def _of_origin(routers: Sequence[str], settings: Sequence[Settings]) -> set[str]:
    """Choose the paths for trials of one origin: the same for all, so that they compare."""
    own = [{path: each[path] for path in each if not path.startswith(PARENT)} for each in settings]
    shared = {path for path in _differing(own) if not path.startswith(OWN)}
    shown = _needed(shared, routers, own)
    differing = set[str]().union(*map(_differing, _grouped(routers, own).values()))
    varied = {path for path in differing if path.startswith(OWN)}
    return shown | _needed(varied, routers, own, shown) | _inherited(settings)


def _of_layers(
    routers: Sequence[str], settings: Sequence[Settings], of_trials: Set[str]
) -> set[str]:
    """Choose the paths for bare layers: those of trials, and no more than sets layers apart.

    A layer whose condition has what its trials' have not would belong to none of them.
    """
    shared = {path for path in _differing(settings) if not path.startswith(OWN)}
    shown = {*of_trials, *_needed(shared, routers, settings, of_trials, few=0)}
    of_routers = set[str]()
    for router, own in _grouped(routers, settings).items():
        varied = {path for path in _differing(own) if path.startswith(OWN)}
        of_routers |= _needed(varied, [router] * len(own), own, shown, few=0)
    return shown | of_routers


def _inherited(settings: Sequence[Settings]) -> set[str]:
    """Find the paths of parents that differ, unless the children's own always have the same."""
    parents = [{path: each[path] for path in each if path.startswith(PARENT)} for each in settings]
    return {
        path
        for path in _differing(parents)
        if any(each.get(path.removeprefix(PARENT)) != each.get(path) for each in settings)
    }


def _differing(settings: Sequence[Settings]) -> set[str]:
    """Find the paths without one value for all; to lack a path that others have is to differ.

    But experts and the options of losses differ only where two trials have that setting.
    """
    differing = set()
    for path in set[str]().union(*settings):
        values = {each.get(path) for each in settings}
        if any(part in path for part in LACKED):
            values.discard(None)
        if len(values) > 1:
            differing.add(path)
    return differing


def _needed(
    paths: set[str],
    routers: Sequence[str],
    settings: Sequence[Settings],
    besides: Set[str] = frozenset(),
    few: int = MANY,
) -> set[str]:
    """Leave out, where the paths are many, those that set nothing apart which others do not.

    Args:
        besides: paths that are shown in any case.
        few: the number of paths up to which all are shown.
    """
    apart = {path: _apart(path, routers, settings) for path in paths | besides}
    times = np.sum([each.astype(int) for each in apart.values()], axis=0)
    needed = set(paths)
    for path in sorted(paths, key=_plainness, reverse=True):
        many = len(needed | besides) > few or path.startswith(OPTIONS)
        if many and (times[apart[path]] > 1).all():
            needed.remove(path)
            times = times - apart[path]
    return needed


def _apart(path: str, routers: Sequence[str], settings: Sequence[Settings]) -> np.ndarray:
    """Find which two trials a path sets apart: a router that lacks it agrees with any value."""
    values = [each.get(path) for each in settings]
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    number = np.array([numbers[value] for value in values])
    has = np.array([value is not None for value in values], dtype=bool)
    name = np.array(routers)
    both = (has[:, None] & has) | (name[:, None] == name)
    return both & (number[:, None] != number)


def _plainness(path: str) -> tuple[int, int, str]:
    """Rank a path: the smaller, the sooner a reader knows by it what a trial is."""
    known = PLAIN.index(path) if path in PLAIN else len(PLAIN)
    return known, path.count("."), path


def _grouped(names: Sequence[str], settings: Sequence[Settings]) -> dict[str, list[Settings]]:
    by_name: dict[str, list[Settings]] = defaultdict(list)
    for name, each in zip(names, settings, strict=True):
        by_name[name].append(each)
    return by_name


def _condition(settings: Settings, paths: set[str]) -> Condition:
    shown = sorted(paths & settings.keys(), key=lambda path: (path.startswith("parent"), path))
    return Condition(tuple((path, settings[path]) for path in shown))
