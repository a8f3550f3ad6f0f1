"""The results of a tuning: the best settings of each router, and a request that uses them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from bench.plan import Request, selected_routers
from bench.tune.rungs import Tried, next_training, winner
from bench.tune.search import STATUS, TRAINING, UNDER_WAY, by_setting
from bench.tune.storage import has_tuning, open_tuning
from results import Store
from results.store.records import AttemptRecord, AttemptStatus
from results.tuned import SearchResult, SettingResult
from routers import ROUTERS
from routers.errors import RequestError

Attempts = Mapping[str, Sequence[AttemptRecord]]


def search_results(store: Store, study: str) -> dict[str, SearchResult]:
    """Return the results of a tuning so far, by router; empty if there is no such tuning."""
    if not has_tuning(store.engine):
        return {}
    prefix = f"{study}/"
    with open_tuning(store.engine) as storage:
        return {
            name.removeprefix(prefix): _result(
                optuna.load_study(study_name=name, storage=storage), store
            )
            for name in optuna.get_all_study_names(storage)
            if name.startswith(prefix)
        }


def _result(study: optuna.Study, store: Store) -> SearchResult:
    over = [trial for trial in study.get_trials(deepcopy=False) if trial.state != UNDER_WAY]
    settings = by_setting(over)
    trained = [trial.user_attrs[TRAINING] for trial in over if TRAINING in trial.user_attrs]
    trainings = tuple(dict.fromkeys(trained))
    attempts = store.attempts(trainings)
    tried = tuple(_setting(trials, attempts) for trials in settings)
    number = winner(list(map(_reached, tried)))
    best = None if number is None else tried[number]
    statuses = [each.status for each in tried]
    flops, seconds = _cost(trainings, attempts)
    return SearchResult(
        trials=len(tried),
        done=statuses.count("done"),
        pruned=statuses.count("pruned"),
        failed=sum(status not in ("done", "pruned") for status in statuses),
        values=tuple(each.values[0] for each in tried),
        best=None if best is None else best.mean,
        seeds=0 if best is None else len(best.values),
        settings={} if best is None else best.settings,
        training=None if best is None else best.trainings[0],
        trainings=trainings,
        tried=tried,
        flops=flops,
        seconds=seconds,
    )


def _reached(setting: SettingResult) -> Tried:
    """Return what a setting is compared by."""
    return Tried(setting.scores, setting.status == AttemptStatus.DONE)


def is_unfinished(result: SearchResult, trials: int = 0, seeds: int = 0) -> bool:
    """Tell whether settings are left to try, or to train on further seeds.

    Args:
        trials, seeds: those that were asked for, if that is known; else those that were reached.
    """
    tried = list(map(_reached, result.tried))
    reached = max((len(each.values) for each in tried), default=0)
    return next_training(tried, max(len(tried), trials), max(reached, seeds)) is not None


def _setting(trials: Sequence[FrozenTrial], attempts: Attempts) -> SettingResult:
    trainings = tuple(trial.user_attrs.get(TRAINING) for trial in trials)
    left_a_model = (AttemptStatus.DONE, AttemptStatus.PRUNED)
    flops, seconds = _cost(filter(None, trainings), attempts)
    return SettingResult(
        settings=dict(trials[0].params),
        status=trials[0].user_attrs[STATUS],
        values=tuple(
            trial.value if trial.user_attrs[STATUS] in left_a_model else None for trial in trials
        ),
        trainings=trainings,
        flops=flops,
        seconds=seconds,
    )


def _cost(trainings: Iterable[str], attempts: Attempts) -> tuple[float | None, float]:
    """Return the summed FLOPs and seconds of all attempts at some trainings."""
    made = [attempt for training in trainings for attempt in attempts.get(training, ())]
    flops = [attempt.flops for attempt in made if attempt.flops is not None]
    return sum(flops) if flops else None, sum(attempt.seconds or 0.0 for attempt in made)


def _asked(store: Store, study: str) -> dict[str, tuple[int, int]]:
    """Return the settings and seeds of each router that a tuning was last asked for."""
    requests = {each.name: each.request for each in store.studies()}
    if (preset := requests.get(study, {}).get("preset")) is None:
        return {}
    wanted = preset["tune"]["trials"], preset["tune"]["seeds"]
    parts: list[Any] = preset["parts"] or [{}]
    named = [part.get("routers") or preset["routers"] for part in parts]
    names = ROUTERS.names() if "all" in named else chain.from_iterable(named)
    return dict.fromkeys(names, wanted)


def with_tuned(request: Request, store: Store, study: str, fixed: Iterable[str] = ()) -> Request:
    """Return the request with the best settings of each of its routers.

    Args:
        study: the name of the tuning.
        fixed: the paths that the user has set.

    Raises:
        RequestError: a router was not tuned, its tuning was interrupted, or the request sets
            something that was tuned.
    """
    results = search_results(store, study)
    routers = [router.name for router in selected_routers(request.preset)]
    missing = [name for name in routers if name not in results or results[name].best is None]
    if missing:
        raise RequestError(
            f"tuning {study!r} has no result for {', '.join(missing)}; run `python bench.py tune "
            f"--study {study} --routers {','.join(missing)}` with the same --preset"
        )
    tuned = {name: results[name] for name in routers}
    asked = _asked(store, study)
    if begun := [n for n, each in tuned.items() if is_unfinished(each, *asked.get(n, ()))]:
        raise RequestError(
            f"tuning {study!r} of {', '.join(begun)} was interrupted before all its settings had "
            "been tried, and the best on all their seeds: run the same `tune` command again to "
            "finish it"
        )
    preset = request.preset
    closed = {*fixed, *preset.sweep, *(path for part in preset.parts for path in part.sweep)}
    for name, each in tuned.items():
        for path in closed & each.settings.keys():
            raise RequestError(f"{path} is set, but was also tuned for {name}; leave one out")
    settings = {name: each.settings for name, each in tuned.items()}
    return replace(
        request,
        preset=preset.model_copy(update={"tuned": settings}),
        tuned={name: asdict(each) for name, each in tuned.items()},
    )
