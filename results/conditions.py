"""What differs between the trials of a study: the settings that are each one's condition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.canonical import to_json
from results.settings import PARENT, Settings, comparable, flattened, leaves, without_losses

OWN = ("router.", "train.losses.", "train.loss_options.")
"""Settings that routers do not share: they count once the trials of one router differ in them."""
PLAIN = (
    *("experts.num_experts", "experts.name", "data.name", "model.name", "model.layers"),
    *("router.capacity_factor", "router.affinity", "train.lr"),
)
"""Settings by which a reader knows a trial best, the best first."""
MANY = 3
"""Settings that can be read at a glance."""
OPTIONS = ("experts.options.", "train.loss_options.")
TWIN = " (twin)"
"""After a router's name: the same router once more, as its own control."""


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
        """The settings whose paths are to be kept."""
        return Condition(tuple(pair for pair in self.settings if keep(pair[0])))


def conditions(
    descriptions: Sequence[Mapping[str, Any]],
    baselines: Collection[str] = (),
    trained: Sequence[Mapping[str, Any]] = (),
) -> list[Condition]:
    """The condition of each description: settings that differ, besides router and seed.

    Once the trials of any router differ in a setting, every trial tells its
    own value, a default as well, and `unset` where it could have one and has none. What differs
    only between routers, each of which has one value, is not told. Where many settings differ, what
    others of them tell already is left out. Of a derived trial also `transform=distill
    parent=soft_moe`, and the `parent.…` in which its siblings differ and that their own settings do
    not tell. What was found for a router alone, by tuning or by matching compute, sets nothing
    apart: it is told as `found`.

    Args:
        baselines: routers without MoE layers, which no auxiliary loss concerns.
        trained: where bare layers are described, the trials beside them: what these tell is told
            of the layers too.
    """
    described = [without_losses(comparable(each), baselines) for each in descriptions]
    kinds = [to_json(_without_seed(each)) for each in described]
    distinct = dict(zip(kinds, described, strict=True))
    beside = [without_losses(comparable(each), baselines) for each in trained]
    others = {to_json(_without_seed(each)): each for each in beside}
    flat = flattened([*distinct.values(), *others.values()])
    own, of_others = flat[: len(distinct)], flat[len(distinct) :]
    routers = [router_of(each) for each in distinct.values()]
    if trained:
        of_trials = _told([router_of(each) for each in others.values()], of_others)
        told = [_of_layers(routers, own, set().union(*of_trials))] * len(own)
    else:
        told = _told(routers, own)
    made = dict(zip(distinct, map(_condition, own, told), strict=True))
    return [made[kind] for kind in kinds]


def router_of(description: Mapping[str, Any]) -> str:
    """The name under which a trial or layer stands: its router's; of a twin, one of its own."""
    name: str = description["router"]["name"]
    return f"{name}{TWIN}" if description.get("twin") else name


def is_twin(name: str) -> bool:
    """Whether what stands under a name is another one's control, and no contender."""
    return TWIN in name


def option_conditions(measured: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Condition]:
    """The conditions of pairs of a suite and its options, by paths as `balance.batch_size`."""
    kinds = [(suite, to_json(options)) for suite, options in measured]
    distinct = dict(zip(kinds, measured, strict=True))
    flat = [dict(leaves(options, suite)) for suite, options in distinct.values()]
    suites = [suite for suite, _ in distinct]
    differing = {name: _differing(own) for name, own in _grouped(suites, flat).items()}
    told = [_condition(own, differing[name]) for own, name in zip(flat, suites, strict=True)]
    made = dict(zip(distinct, told, strict=True))
    return [made[kind] for kind in kinds]


def _told(routers: Sequence[str], settings: Sequence[Settings]) -> list[set[str]]:
    """The paths that are told of each of some trials."""
    # What sets all derived trials apart from the others is told by the transform's name.
    origins = [f"{each.get('transform')} {each.get('parent')}" for each in settings]
    derivation = _differing(settings) & {"transform", "parent"}
    told = {}
    for origin in dict.fromkeys(origins):
        places = [place for place, name in enumerate(origins) if name == origin]
        alike = [settings[place] for place in places]
        told[origin] = derivation | _of_origin([routers[place] for place in places], alike)
    return [told[origin] for origin in origins]


def _of_origin(routers: Sequence[str], settings: Sequence[Settings]) -> set[str]:
    """The paths that are told of trials of one origin: the same of all, so that they compare."""
    own = [{path: each[path] for path in each if not path.startswith(PARENT)} for each in settings]
    shared = {path for path in _differing(own) if not path.startswith(OWN)}
    told = _telling(shared, routers, own)
    differing = set[str]().union(*map(_differing, _grouped(routers, own).values()))
    varied = {path for path in differing if path.startswith(OWN)}
    return told | _telling(varied, routers, own, told) | _inherited(settings)


def _of_layers(
    routers: Sequence[str], settings: Sequence[Settings], of_trials: Set[str]
) -> set[str]:
    """The paths that are told of bare layers: those of trials, and no more than sets layers apart.

    A layer that told what its trials do not would be found for none of them.
    """
    shared = {path for path in _differing(settings) if not path.startswith(OWN)}
    told = {*of_trials, *_telling(shared, routers, settings, of_trials, few=0)}
    needed = set[str]()
    for router, own in _grouped(routers, settings).items():
        varied = {path for path in _differing(own) if path.startswith(OWN)}
        needed |= _telling(varied, [router] * len(own), own, told, few=0)
    return told | needed


def _without_seed(description: Mapping[str, Any]) -> dict[str, Any]:
    """What trials have in common that are seeds of one another, parents and all."""
    rest = {name: value for name, value in description.items() if name != "seed"}
    return rest | {"parent": _without_seed(rest["parent"])} if "parent" in rest else rest


def _inherited(settings: Sequence[Settings]) -> set[str]:
    """The paths of parents that differ, unless the children's own always say the same."""
    parents = [{path: each[path] for path in each if path.startswith(PARENT)} for each in settings]
    return {
        path
        for path in _differing(parents)
        if any(each.get(path.removeprefix(PARENT)) != each.get(path) for each in settings)
    }


def _differing(settings: Sequence[Settings]) -> set[str]:
    """The paths without one value for all; to lack a path that others have is to differ.

    But the options of experts and losses differ only where two trials have that option.
    """
    values: dict[str, set[str | None]] = defaultdict(set)
    for path in {path for each in settings for path in each}:
        values[path] = {each.get(path) for each in settings}
        if any(part in path for part in OPTIONS):
            values[path].discard(None)
    return {path for path, found in values.items() if len(found) > 1}


def _telling(
    paths: set[str],
    routers: Sequence[str],
    settings: Sequence[Settings],
    besides: Set[str] = frozenset(),
    few: int = MANY,
) -> set[str]:
    """The paths; where they are many, without those that set nothing apart which others do not.

    Args:
        besides: paths that are told in any case.
        few: so many are all told.
    """
    apart = {path: _apart(path, routers, settings) for path in paths | besides}
    times = np.sum([each.astype(int) for each in apart.values()], axis=0)
    told = set(paths)
    for path in sorted(paths, key=_plainness, reverse=True):
        many = len(told | besides) > few or path.startswith(OPTIONS[0])
        if many and (times[apart[path]] > 1).all():
            told.remove(path)
            times = times - apart[path]
    return told


def _apart(path: str, routers: Sequence[str], settings: Sequence[Settings]) -> np.ndarray:
    """Which two trials a path sets apart: a router that lacks it goes with any other's value."""
    values = [each.get(path) for each in settings]
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    number = np.array([numbers[value] for value in values])
    has = np.array([value is not None for value in values], dtype=bool)
    name = np.array(routers)
    both = (has[:, None] & has) | (name[:, None] == name)
    return both & (number[:, None] != number)


def _plainness(path: str) -> tuple[int, int, str]:
    """The smaller, the sooner a reader knows by it what a trial is."""
    known = PLAIN.index(path) if path in PLAIN else len(PLAIN)
    return known, path.count("."), path


def _grouped(names: Sequence[str], settings: Sequence[Settings]) -> dict[str, list[Settings]]:
    """The settings of each name."""
    by_name: dict[str, list[Settings]] = defaultdict(list)
    for name, each in zip(names, settings, strict=True):
        by_name[name].append(each)
    return by_name


def _condition(settings: Settings, paths: set[str]) -> Condition:
    told = sorted(paths & settings.keys(), key=lambda path: (path.startswith("parent"), path))
    return Condition(tuple((path, settings[path]) for path in told))
