"""One router's search in an Optuna study: what is tried next, and how it went.

Each draw depends on the router's name, the seed, the number of the setting, and how the settings of
this router before it went on their first seed: other routers change none of it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from bench.config import Pruner, TuneConfig
from bench.tune.rungs import Tried, count_trainings, next_training
from bench.tune.space import Contender, Space
from results.store.records import AttemptStatus

UNDER_WAY = TrialState.RUNNING
STATUS, STOPPED, TRAINING, ASKED = "status", "stopped", "training", "asked"
SETTING, REPEAT = "setting", "repeat"
"""Names under which Optuna keeps what it does not know itself: of a trial, the number of its
setting, and which of the seeds it trains on; both count from 0."""


def by_setting(trials: Iterable[FrozenTrial]) -> list[list[FrozenTrial]]:
    """Return the trials of each setting, seed by seed, in the order in which settings were drawn.

    Trials that were kept before settings had several seeds are a setting each.
    """
    made: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        made[trial.user_attrs.get(SETTING, trial.number)].append(trial)
    return [made[number] for number in sorted(made)]


def tried_on(trials: Sequence[FrozenTrial]) -> Tried:
    """Return what a setting has reached by its trials, all of them over."""
    whole = trials[0].user_attrs[STATUS] == AttemptStatus.DONE
    return Tried(tuple(trial.value or 0.0 for trial in trials), whole)


class Search:
    """The search of one router: its trials, each a training, kept by Optuna.

    Args:
        storage: the storage in which Optuna keeps the trials.
        study: the name of the tuning.
        contender: the router that is tuned.
        asked: how many settings and seeds there are, and the rule by which trainings end early.
    """

    def __init__(
        self, storage: BaseStorage, study: str, contender: Contender, asked: TuneConfig
    ) -> None:
        self.contender = contender
        self._name, self._storage, self._tune = f"{study}/{contender.router}", storage, asked
        self._pruner = _pruner(asked.pruner, contender.preset.train.evaluations)
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
    def total(self) -> int:
        """How many trainings there are in the end; where more settings were tried, of those."""
        settings = max(self._tune.trials, len(by_setting(self.trials)))
        return count_trainings(settings, self._tune.seeds)

    @property
    def left(self) -> int:
        """How many trainings are not over."""
        over = sum(trial.state != UNDER_WAY for trial in self.trials)
        return max(self.total - over, 0)

    def next(self) -> FrozenTrial | None:
        """Return the trial that is under way, or one more; None where all are over."""
        trials = self.trials
        for trial in trials:
            if trial.state == UNDER_WAY:
                return trial
        settings = by_setting(trials)
        limit = max(self._tune.trials, len(settings))
        following = next_training([tried_on(each) for each in settings], limit, self._tune.seeds)
        if following is None:
            return None
        setting, repeat = following
        space = dict(self.contender.space)
        new = setting == len(settings)
        values = self._drawn(settings) if new else settings[setting][0].params
        place = {SETTING: setting, REPEAT: repeat}
        self._study.add_trial(
            create_trial(
                state=UNDER_WAY, params=values, distributions=space, user_attrs=dict(place)
            )
        )
        return self.trials[len(trials)]

    def _drawn(self, settings: Sequence[Sequence[FrozenTrial]]) -> dict[str, Any]:
        """Draw a new setting from how the others went on their first seed."""
        seeded = f"{self.contender.router}\n{self.contender.seed}\n{len(settings)}"
        seed = int.from_bytes(hashlib.sha256(seeded.encode()).digest()[:4], "big")
        first = [trials[0] for trials in settings]
        return draw(first, self.contender.space, seed, self._pruner, study=self._name)

    def set_training(self, number: int, fingerprint: str) -> None:
        """Write down which training a trial is."""
        self._storage.set_trial_user_attr(self._id(number), TRAINING, fingerprint)

    def report(self, number: int, evaluation: int, accuracy: float) -> bool:
        """Write down an evaluation of a trial.

        Args:
            evaluation: how many there were, with this one.

        Returns:
            Whether the trial is not worth going on with. Those on further seeds always are: a mean
            is taken of them.
        """
        if self.trials[number].user_attrs.get(REPEAT, 0):
            return False
        self._storage.set_trial_intermediate_value(self._id(number), evaluation, accuracy)
        return self._pruner.prune(self._study, self.trials[number])

    def stop(self, number: int, reason: str) -> None:
        """Mark a trial as stopped, whatever happens to its process."""
        self._storage.set_trial_user_attr(self._id(number), STOPPED, reason)

    def end(self, number: int, status: str, accuracy: float) -> None:
        """Write down that a trial is over, unless that is known.

        Args:
            status: status of the trial's attempt. What was stopped is pruned, also where its
                process came to its end before the request: nothing may hang on how fast it is. What
                gave no model has the accuracy 0, so that the draws to come keep away from it.
        """
        if self.trials[number].state != UNDER_WAY:
            return
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
