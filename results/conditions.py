"""Conditions: the settings that differ between the trials of a study."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.groups import grouped
from results.settings import PARENT, REPLICATE, Settings, comparable, flattened, leaves
from results.text import to_json

OWN = ("router.", "train.losses.", "train.loss_options.")
"""Settings specific to a router: they count only if trials of one router differ in them."""
PLAIN = (
    *("experts.num_experts", "experts.name", "data.name", "model.name", "model.layers"),
    *("router.capacity_factor", "router.affinity", "train.lr"),
)
"""Settings by which a reader recognises a trial most easily, the most telling first."""
MANY = 3
"""Number of settings that can be read at a glance."""
OPTIONS = "experts.options."
LACKED = ("experts.", "train.loss_options.")
"""Settings that a trial may lack without differing from trials that have them."""


@dataclass(frozen=True, order=True)
class Condition:
    """Settings that set a trial or layer apart: pairs of a path, as `--set` takes it, and a value.

    Empty if nothing but router and seed differs. A value is plain text or JSON.
    """

    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Condition:
        """Make a condition from a mapping, in the mapping's order."""
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
        """Return the condition with only the settings whose paths `keep` accepts."""
        return Condition(tuple(pair for pair in self.settings if keep(pair[0])))


def conditions(
    descriptions: Sequence[Mapping[str, Any]],
    baselines: Collection[str] = (),
    trained: Sequence[Mapping[str, Any]] = (),
) -> list[Condition]:
    """Return the condition of each description: the settings that differ, besides router and seed.

    If the trials of any router differ in a setting, every trial's condition includes that setting
    with the trial's own value, even a default, or `unset` if it could have a value and has none.
    Router settings that differ only between routers, with one value per router, are left out. If
    many settings differ, those that separate no trials beyond what the others do are left out. A
    derived trial also has `transform=distill parent=soft_moe`, and each `parent.…` in which its
    siblings differ, unless their own settings always have the same value. Values found for one
    router alone, by tuning or by matching compute, make no difference: they read `found`.

    Args:
        baselines: routers without MoE layers, to which auxiliary losses and experts do not apply.
        trained: if bare layers are described, the trials of the same study: the layers' conditions
            include the settings that the trials' conditions have.
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
    """Return each description's kind, ignoring seed and A/A replicate, and one of each kind."""
    described = [comparable(each, baselines) for each in descriptions]
    kinds = [to_json(_without_run(each)) for each in described]
    return kinds, dict(zip(kinds, described, strict=True))


def _without_run(description: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in description.items() if name not in ("seed", REPLICATE)}
    return rest | {"parent": _without_run(rest["parent"])} if "parent" in rest else rest


def router_label(router: str, aa_replicate: int) -> str:
    """Return a router's name for readers, in the A/A control's second run as `soft_moe (twin)`."""
    return f"{router} (twin)" if aa_replicate else router


def label_of(description: Mapping[str, Any]) -> str:
    """Return the name, for readers, of the router of a described trial or layer."""
    return router_label(description["router"]["name"], description.get(REPLICATE, 0))


def option_conditions(measured: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Condition]:
    """Return the conditions of (suite, options) pairs, with paths such as `balance.batch_size`."""
    kinds = [(suite, to_json(options)) for suite, options in measured]
    distinct = dict(zip(kinds, measured, strict=True))
    flat = [dict(leaves(options, suite)) for suite, options in distinct.values()]
    suites = [suite for suite, _ in distinct]
    by_suite = grouped(zip(suites, flat, strict=True))
    differing = {name: _differing(own) for name, own in by_suite.items()}
    made = [_condition(own, differing[name]) for own, name in zip(flat, suites, strict=True)]
    by_kind = dict(zip(distinct, made, strict=True))
    return [by_kind[kind] for kind in kinds]


def conditions_at(
    paths: Collection[str], descriptions: Sequence[Mapping[str, Any]]
) -> list[Condition]:
    """Return the values of each description at these paths; descriptions may span studies.

    `conditions` chooses paths by what differs within one study. Conditions of several studies can
    be compared only if each has the paths of all of them.
    """
    flat = flattened([comparable(each) for each in descriptions])
    return [_condition(settings, set(paths)) for settings in flat]


def _shown(routers: Sequence[str], settings: Sequence[Settings]) -> list[set[str]]:
    """Choose the paths that each trial's condition includes."""
    # The transform's name separates all derived trials from the others.
    origins = [f"{each.get('transform')} {each.get('parent')}" for each in settings]
    derivation = _differing(settings) & {"transform", "parent"}
    shown = {}
    for origin in dict.fromkeys(origins):
        places = [place for place, name in enumerate(origins) if name == origin]
        alike = [settings[place] for place in places]
        shown[origin] = derivation | _of_origin([routers[place] for place in places], alike)
    return [shown[origin] for origin in origins]


def _of_origin(routers: Sequence[str], settings: Sequence[Settings]) -> set[str]:
    """Choose the paths for trials of one origin: the same for all, so that they can be compared."""
    own = [{path: each[path] for path in each if not path.startswith(PARENT)} for each in settings]
    shared = {path for path in _differing(own) if not path.startswith(OWN)}
    shown = _needed(shared, routers, own)
    differing = set[str]().union(*map(_differing, grouped(zip(routers, own, strict=True)).values()))
    varied = {path for path in differing if path.startswith(OWN)}
    return shown | _needed(varied, routers, own, shown) | _inherited(settings)


def _of_layers(
    routers: Sequence[str], settings: Sequence[Settings], of_trials: Set[str]
) -> set[str]:
    """Choose the paths for bare layers: those of the trials, plus only what separates the layers.

    A layer whose condition had settings that no trial's condition has would match no trial.
    """
    shared = {path for path in _differing(settings) if not path.startswith(OWN)}
    shown = {*of_trials, *_needed(shared, routers, settings, of_trials, few=0)}
    of_routers = set[str]()
    for router, own in grouped(zip(routers, settings, strict=True)).items():
        varied = {path for path in _differing(own) if path.startswith(OWN)}
        of_routers |= _needed(varied, [router] * len(own), own, shown, few=0)
    return shown | of_routers


def _inherited(settings: Sequence[Settings]) -> set[str]:
    """Return the parents' paths that differ, unless the children always have the same values."""
    parents = [{path: each[path] for path in each if path.startswith(PARENT)} for each in settings]
    return {
        path
        for path in _differing(parents)
        if any(each.get(path.removeprefix(PARENT)) != each.get(path) for each in settings)
    }


def _differing(settings: Sequence[Settings]) -> set[str]:
    """Return the paths that differ; lacking a path that others have counts as differing.

    Settings of experts and options of losses differ only if two trials that have them differ.
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
    """Drop redundant paths, which separate no trials that others do not, if there are many.

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
    """Tell which pairs of trials a path separates: a router that lacks it agrees with any value."""
    values = [each.get(path) for each in settings]
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    number = np.array([numbers[value] for value in values])
    has = np.array([value is not None for value in values], dtype=bool)
    name = np.array(routers)
    both = (has[:, None] & has) | (name[:, None] == name)
    return both & (number[:, None] != number)


def _plainness(path: str) -> tuple[int, int, str]:
    """Rank a path: smaller means that readers recognise a trial by it more easily."""
    known = PLAIN.index(path) if path in PLAIN else len(PLAIN)
    return known, path.count("."), path


def _condition(settings: Settings, paths: set[str]) -> Condition:
    shown = sorted(paths & settings.keys(), key=lambda path: (path.startswith("parent"), path))
    return Condition(tuple((path, settings[path]) for path in shown))
