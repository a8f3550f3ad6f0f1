"""One router's search in an Optuna study: what is tried next, how it went, and the best of it.

Each draw depends on the router's name, the seed, the number of the trial, and how the trials of
this router before it went: other routers change none of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from bench.config import Pruner
from bench.plan import Request, selected_routers
from bench.tune.space import Contender, Space
from results import Store, StoreError
from results.connect import BUSY_SECONDS
from results.store.records import AttemptStatus
from routers.errors import RequestError

UNDER_WAY = TrialState.RUNNING
STATUS, STOPPED, TRAINING, ASKED = "status", "stopped", "training", "asked"
"""Names under which Optuna keeps what it does not know itself."""


class Search:
    """The search of one router: its trials, kept by Optuna.

    Args:
        storage: the storage in which Optuna keeps the trials.
        study: the name of the tuning.
        contender: the router that is tuned.
        pruner: the rule by which trials end early.
    """

    def __init__(
        self, storage: BaseStorage, study: str, contender: Contender, pruner: Pruner
    ) -> None:
        self.contender = contender
        self._name, self._storage = f"{study}/{contender.router}", storage
        self._pruner = _pruner(pruner, contender.preset.train.evaluations)
        self._study = optuna.create_study(
            storage=storage,
            study_name=self._name,
            direction="maximize",
            load_if_exists=True,
            pruner=self._pruner,
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All, in order."""
        return self._study.get_trials(deepcopy=False)

    def asked(self, now: dict[str, Any]) -> dict[str, Any]:
        """Return what this search was asked for when it began, which is now where it is new."""
        if ASKED not in self._study.user_attrs:
            self._study.set_user_attr(ASKED, now)
        return self._study.user_attrs[ASKED]

    @property
    def over(self) -> int:
        """How many have ended."""
        return sum(trial.state != UNDER_WAY for trial in self.trials)

    def next(self, limit: int) -> FrozenTrial | None:
        """Return the trial that is under way, or one more; None where there are `limit` already."""
        for trial in self.trials:
            if trial.state == UNDER_WAY:
                return trial
        number = len(self.trials)
        if number >= limit:
            return None
        seeded = f"{self.contender.router}\n{self.contender.seed}\n{number}"
        seed = int.from_bytes(hashlib.sha256(seeded.encode()).digest()[:4], "big")
        space = dict(self.contender.space)
        settings = draw(self.trials, space, seed, self._pruner, study=self._name)
        self._study.add_trial(create_trial(state=UNDER_WAY, params=settings, distributions=space))
        return self.trials[number]

    def set_training(self, number: int, fingerprint: str) -> None:
        """Write down which training a trial is."""
        self._storage.set_trial_user_attr(self._id(number), TRAINING, fingerprint)

    def report(self, number: int, evaluation: int, accuracy: float) -> bool:
        """Write down an evaluation of a trial.

        Args:
            evaluation: how many there were, with this one.

        Returns:
            Whether the trial is not worth going on with.
        """
        self._storage.set_trial_intermediate_value(self._id(number), evaluation, accuracy)
        return self._pruner.prune(self._study, self.trials[number])

    def stop(self, number: int, reason: str) -> None:
        """Mark a trial as stopped, whatever happens to its process."""
        self._storage.set_trial_user_attr(self._id(number), STOPPED, reason)

    def end(self, number: int, status: str, accuracy: float) -> None:
        """Write down that a trial is over.

        Args:
            status: status of the trial's attempt. What was stopped is pruned, also where its
                process came to its end before the request: nothing may hang on how fast it is. What
                gave no model has the accuracy 0, so that the draws to come keep away from it.
        """
        if STOPPED in self.trials[number].user_attrs:
            status = AttemptStatus.PRUNED
        self._storage.set_trial_user_attr(self._id(number), STATUS, status)
        pruned = status == AttemptStatus.PRUNED
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        self._study.tell(number, None if pruned else accuracy, state)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(
            self._storage.get_study_id_from_name(self._name), number
        )


def draw(
    before: Sequence[FrozenTrial], space: Space, seed: int, pruner: BasePruner, study: str
) -> dict[str, Any]:
    """Return the settings that Optuna's TPE tries after these trials: of nothing but the arguments.

    In a study in memory, so that a trial is written down with all its settings or not at all.
    """
    copy = optuna.create_study(
        study_name=study,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=pruner,
    )
    copy.add_trials(before)
    distributions: dict[str, BaseDistribution] = dict(space)
    return copy.ask(distributions).params


def _pruner(name: Pruner, evaluations: int) -> BasePruner:
    if name == "median":
        return MedianPruner()
    if name == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=evaluations)
    return NopPruner()


FILE, SCHEMA = "tuning.db", "tuning"


@contextmanager
def open_tuning(engine: Engine) -> Iterator[RDBStorage]:
    """Return the tuning that belongs to a results database; made where there is none.

    Raises:
        StoreError: it cannot be reached, read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = _opened(engine)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (StorageInternalError, SQLAlchemyError) as error:
        url, cause = engine.url.render_as_string(hide_password=True), error.__cause__ or error
        raise StoreError(f"cannot use the tuning beside {url}: {cause}") from error


def _file(engine: Engine) -> Path:
    return Path(str(engine.url.database)).parent / FILE


def _opened(engine: Engine) -> RDBStorage:
    if engine.dialect.name == "sqlite":
        wait = {"connect_args": {"timeout": BUSY_SECONDS}}
        return RDBStorage(f"sqlite:///{_file(engine)}", engine_kwargs=wait)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    options = [str(engine.url.query.get("options", "")), f"-csearch_path={SCHEMA}"]
    url = engine.url.update_query_dict({"options": " ".join(options).strip()})
    return RDBStorage(url.render_as_string(hide_password=False))


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search for one router.

    Attributes:
        trials: number of trials that are over; each is done, pruned or failed.
        values: of each trial in order, the share of the validation split that was right when it
            ended; None where it left no model.
        best: the highest value of a trial that is done; None where none is.
        settings: the settings of the best trial, by path.
        training: the fingerprint of the best trial.
        trainings: the fingerprint of each trial in order; None where it drew settings that cannot
            be trained.
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
    if store.engine.dialect.name == "sqlite" and not _file(store.engine).exists():
        return {}
    prefix = f"{study}/"
    with open_tuning(store.engine) as storage:
        return {
            name.removeprefix(prefix): _result(optuna.load_study(study_name=name, storage=storage))
            for name in optuna.get_all_study_names(storage)
            if name.startswith(prefix)
        }


def _result(study: optuna.Study) -> SearchResult:
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != UNDER_WAY]
    statuses = [trial.user_attrs[STATUS] for trial in trials]
    done = [trial for trial in trials if trial.user_attrs[STATUS] == "done"]
    best = max(done, key=lambda trial: trial.value or 0.0, default=None)
    return SearchResult(
        trials=len(trials),
        done=len(done),
        pruned=statuses.count("pruned"),
        failed=sum(status not in ("done", "pruned") for status in statuses),
        values=tuple(
            trial.value if status in ("done", "pruned") else None
            for trial, status in zip(trials, statuses, strict=True)
        ),
        best=None if best is None else best.value,
        settings={} if best is None else dict(best.params),
        training=None if best is None else best.user_attrs[TRAINING],
        trainings=tuple(trial.user_attrs.get(TRAINING) for trial in trials),
    )


def with_tuned(request: Request, store: Store, study: str, fixed: Iterable[str] = ()) -> Request:
    """Return the request with the best settings of each of its routers.

    Args:
        study: the name of the tuning.
        fixed: the paths that the user has set.

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
    preset = request.preset
    closed = {*fixed, *preset.sweep, *(path for part in preset.parts for path in part.sweep)}
    for name, each in tuned.items():
        for path in closed & each.settings.keys():
            raise RequestError(f"{path} is given, and was tuned for {name}; leave one out")
    settings = {name: each.settings for name, each in tuned.items()}
    return replace(
        request,
        preset=preset.model_copy(update={"tuned": settings}),
        tuned={name: asdict(each) for name, each in tuned.items()},
    )
