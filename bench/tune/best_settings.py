"""The results of a tuning, as plain data, and a request that uses its best settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from bench.plan import Request, selected_routers
from bench.tune.search import STATUS, TRAINING, UNDER_WAY, has_tuning, open_tuning, optuna_study
from results import Store
from routers.errors import RequestError


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search for one router.

    Attributes:
        trials: those that are over; each is done, pruned or failed.
        values: of each trial in order, the share of the validation split that was right when it
            ended; None where it left no model.
        best: the highest of those that are done; None where none is.
        settings: with which it was, by path.
        training: its fingerprint.
        trainings: of each trial in order; None where it drew settings that cannot be trained.
    """

    trials: int
    done: int
    pruned: int
    failed: int
    values: tuple[float | None, ...]
    best: float | None
    settings: dict[str, Any]
    training: str | None
    trainings: tuple[str | None, ...]


def search_results(store: Store, study: str) -> dict[str, SearchResult]:
    """Return the results of a tuning so far, by router; nothing where there is no such tuning."""
    if not has_tuning(store.engine):
        return {}
    prefix = optuna_study(study, "")
    with open_tuning(store.engine) as storage:
        return {
            name.removeprefix(prefix): _result(optuna.load_study(study_name=name, storage=storage))
            for name in optuna.get_all_study_names(storage)
            if name.startswith(prefix)
        }


def with_tuned(request: Request, store: Store, study: str, fixed: Iterable[str] = ()) -> Request:
    """Return the request with the best settings of each of its routers.

    Args:
        study: the tuning that found them.
        fixed: paths that a user has set.

    Raises:
        RequestError: a router was not tuned, or the request gives a setting that was.
    """
    results = search_results(store, study)
    routers = [router.name for router in selected_routers(request.preset)]
    missing = [name for name in routers if name not in results or results[name].best is None]
    if missing:
        raise RequestError(
            f"tuning {study!r} has no result of {', '.join(missing)}; `python bench.py tune "
            f"--study {study} --routers {','.join(missing)}` makes them, with the same --preset"
        )
    tuned = {name: results[name] for name in routers}
    _refuse_fixed(request, tuned, set(fixed))
    settings = {name: each.settings for name, each in tuned.items()}
    return replace(
        request,
        preset=request.preset.model_copy(update={"tuned": settings}),
        tuned={name: asdict(each) for name, each in tuned.items()},
    )


def _refuse_fixed(request: Request, tuned: Mapping[str, SearchResult], fixed: set[str]) -> None:
    """Refuse a setting that the user made or sweeps, and that was found for a router alone."""
    parts = request.preset.parts
    swept = {*request.preset.sweep, *(path for part in parts for path in part.sweep)}
    for name, each in tuned.items():
        for path in (swept | fixed) & each.settings.keys():
            raise RequestError(f"{path} is given, and was tuned for {name}; leave one out")


def _result(study: optuna.Study) -> SearchResult:
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != UNDER_WAY]
    done, pruned = _of(trials, "done"), _of(trials, "pruned")
    best = max(done, key=lambda trial: trial.value or 0.0, default=None)
    return SearchResult(
        trials=len(trials),
        done=len(done),
        pruned=len(pruned),
        failed=len(trials) - len(done) - len(pruned),
        values=tuple(t.value if t in done or t in pruned else None for t in trials),
        best=None if best is None else best.value,
        settings={} if best is None else dict(best.params),
        training=None if best is None else best.user_attrs[TRAINING],
        trainings=tuple(trial.user_attrs.get(TRAINING) for trial in trials),
    )


def _of(trials: Sequence[FrozenTrial], status: str) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.user_attrs[STATUS] == status]
