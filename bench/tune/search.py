"""One router's search: what is tried next, how far it is, and how it ended, in an Optuna study.

Each draw depends on the router's name, the seed, the number of the trial, and how the trials of
this router before it went: other routers change none of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from bench.tune.space import Contender, Space
from results import StoreError
from results.connect import BUSY_SECONDS
from results.store.records import AttemptStatus

UNDER_WAY = TrialState.RUNNING
STATUS, STOPPED, TRAINING, ASKED = "status", "stopped", "training", "asked"
"""Names under which Optuna keeps what it does not know itself."""


@dataclass(frozen=True)
class Draw:
    """One draw of settings, a trial of the search.

    Attributes:
        number: from 0.
        settings: by path.
        stopped: why it was stopped; None where it was not.
    """

    number: int
    settings: dict[str, Any]
    stopped: str | None = None


def optuna_study(study: str, router: str) -> str:
    """Return the name that Optuna knows a router's search by."""
    return f"{study}/{router}"


class Search:
    """The search of one router: its trials, kept by Optuna.

    Args:
        storage: of Optuna; it holds what is known.
        study: the tuning's name.
        contender: whose search it is.
        pruner: which trials end early.
    """

    def __init__(
        self, storage: BaseStorage, study: str, contender: Contender, pruner: Pruner
    ) -> None:
        self._name, self._contender = optuna_study(study, contender.router), contender
        self._storage = storage
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

    def next(self, limit: int) -> Draw | None:
        """Return the trial that is under way, or one more; None where there are `limit` already."""
        for trial in self.trials:
            if trial.state == UNDER_WAY:
                return Draw(trial.number, trial.params, trial.user_attrs.get(STOPPED))
        number = len(self.trials)
        if number >= limit:
            return None
        space = dict(self._contender.space)
        settings = draw(self.trials, space, self._seeded(number), self._pruner, study=self._name)
        made = create_trial(state=UNDER_WAY, params=settings, distributions=space)
        self._study.add_trial(made)
        return Draw(number, settings)

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
            status: of its attempt. What was stopped is pruned, also where its process came to its
                end before the request: nothing may hang on how fast it is. What gave no model has
                the accuracy 0, so that the draws to come keep away from it.
        """
        if STOPPED in self.trials[number].user_attrs:
            status = AttemptStatus.PRUNED
        self._storage.set_trial_user_attr(self._id(number), STATUS, status)
        pruned = status == AttemptStatus.PRUNED
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        self._study.tell(number, None if pruned else accuracy, state)

    def _seeded(self, number: int) -> int:
        text = f"{self._contender.router}\n{self._contender.seed}\n{number}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

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
        cause = error.__cause__ or error
        raise StoreError(f"cannot use the tuning beside {_shown(engine)}: {cause}") from error


def has_tuning(engine: Engine) -> bool:
    """Return whether there may be a tuning to read, without making one."""
    return engine.dialect.name != "sqlite" or _file(engine).exists()


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


def _shown(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)
