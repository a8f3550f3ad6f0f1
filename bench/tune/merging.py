"""Merging tunings: what `tune` tried on several machines, brought together for one database."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from bench.tune.search import STATUS, TRAINING, UNDER_WAY
from bench.tune.storage import has_tuning, open_tuning
from results import Store, open_store


@dataclass(frozen=True)
class MergedSearch:
    """The search of one router in a source, and the result of merging it.

    Attributes:
        name: `TUNING/ROUTER`.
        added: number of its trainings that the target did not have.
        difference: how the target's search of this name differs, so that nothing was added; None
            if the target has the same trainings or the first of them.
    """

    name: str
    added: int = 0
    difference: str | None = None


@dataclass(frozen=True)
class MergedTunings:
    """The changes made by merging the tunings of one source.

    Attributes:
        source: URL of the source, without its password.
        searches: all its searches.
        missing: tunings whose trainings the source has, but not the settings that were tried.
    """

    source: str
    searches: tuple[MergedSearch, ...]
    missing: tuple[str, ...]

    @property
    def is_new(self) -> bool:
        """Whether anything was changed."""
        return any(search.added for search in self.searches)


@dataclass(frozen=True)
class _Search:
    """A search in a source, with its finished trainings in order."""

    name: str
    attributes: dict[str, Any]
    trials: list[FrozenTrial]


def merge_tunings(target: str, sources: Sequence[str]) -> list[MergedTunings]:
    """Add the tunings of other databases to those of the target; the others are only read.

    Trainings under way are left out. Merging again changes nothing. If both have a search of the
    same name and one is the beginning of the other, the longer one is kept, otherwise the target's.

    Args:
        target, sources: SQLite files or SQLAlchemy URLs.

    Raises:
        StoreError: a database, or Optuna's storage next to it, cannot be used.
    """
    merged = []
    with open_store(target) as into:
        for name in sources:
            with open_store(name, create=False, read_only=True) as store:
                searches = list(_searches(store))
                tuned = {search.name.partition("/")[0] for search in searches}
                asked = [study.name for study in store.studies() if "tuning" in study.request]
                missing = tuple(study for study in asked if study not in tuned)
                merged.append(MergedTunings(store.url, _add(searches, into), missing))
    return merged


def _searches(store: Store) -> Iterator[_Search]:
    if not has_tuning(store.engine):
        return
    with open_tuning(store.engine, read_only=True) as storage:
        for name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=name, storage=storage)
            trials = takewhile(lambda trial: trial.state != UNDER_WAY, study.get_trials())
            yield _Search(name, study.user_attrs, list(trials))


def _add(searches: Sequence[_Search], into: Store) -> tuple[MergedSearch, ...]:
    if not searches:
        return ()
    with into.alone(), open_tuning(into.engine) as storage:  # no `tune` adds a trial meanwhile
        return tuple(_merge(search, storage) for search in searches)


def _merge(search: _Search, storage: BaseStorage) -> MergedSearch:
    own = optuna.create_study(
        storage=storage, study_name=search.name, direction="maximize", load_if_exists=True
    )
    difference = _difference(own, search)
    if difference is not None:
        return MergedSearch(search.name, difference=difference)
    for key in search.attributes.keys() - own.user_attrs.keys():
        own.set_user_attr(key, search.attributes[key])
    new = search.trials[len(own.get_trials(deepcopy=False)) :]
    own.add_trials(new)
    return MergedSearch(search.name, len(new))


def _difference(own: optuna.Study, search: _Search) -> str | None:
    """Return how a search differs from the target's own, or None if one begins the other."""
    asked = own.user_attrs
    if any(asked.get(key, value) != value for key, value in search.attributes.items()):
        return "it was begun with another seed, other settings, ranges, data or code"
    for trial, other in zip(own.get_trials(deepcopy=False), search.trials, strict=False):
        if trial.state == UNDER_WAY:
            return (
                f"training {trial.number + 1} is under way here, and has ended there; run the "
                "same `tune` command here, and merge again"
            )
        if _content(trial) != _content(other):
            number, here, there = trial.number + 1, _label(trial), _label(other)
            return f"training {number} here: {here}; there: {there}"
    return None


def _content(trial: FrozenTrial) -> tuple[Any, ...]:
    """Return what two machines agree on that tune in the same way."""
    return trial.state, trial.values, trial.params, trial.user_attrs


def _label(trial: FrozenTrial) -> str:
    """Describe a finished training: how it ended, its accuracy, settings and fingerprint."""
    known = trial.user_attrs
    accuracy = [] if trial.value is None else [f"top-1 {100 * trial.value:.6g} %"]
    settings = [
        f"{path}={value:.6g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in sorted(trial.params.items())
    ]
    fingerprint = [f"trial {known[TRAINING][:10]}"] if TRAINING in known else []
    return ", ".join([known.get(STATUS, "over"), *accuracy, *settings, *fingerprint])
