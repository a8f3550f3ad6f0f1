"""One router's search in an Optuna study: what is tried next, and how it ended.

Each draw depends on the router's name, the seed, the number of the setting, and the results of this
router's earlier settings on their first seed; other routers have no influence.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
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
"""Names under which Optuna stores attributes of ours. Of a trial, `setting` is the number of its
setting and `repeat` the number of its seed; both count from 0."""


def by_setting(trials: Iterable[FrozenTrial]) -> list[list[FrozenTrial]]:
    """Return the trials of each setting, seed by seed, in the order in which settings were drawn.

    Trials stored before settings had several seeds are one setting each.
    """
    made: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        made[trial.user_attrs.get(SETTING, trial.number)].append(trial)
    return [made[number] for number in sorted(made)]


def tried_on(trials: Sequence[FrozenTrial]) -> Tried:
    """Return what a setting has reached in its trials, all of which have ended."""
    whole = trials[0].user_attrs[STATUS] == AttemptStatus.DONE
    return Tried(tuple(trial.value or 0.0 for trial in trials), whole)


class Search:
    """The search of one router: its trials, each a training, stored by Optuna.

    Args:
        storage: Optuna's storage of the trials.
        study: the name of the tuning.
        contender: the router that is tuned.
        asked: the numbers of settings and seeds, and the rule that ends trainings early.
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
        """All trials, in order."""
        return self._study.get_trials(deepcopy=False)

    def asked(self, now: dict[str, Any]) -> dict[str, Any]:
        """Return the request with which this search began; a new search begins with `now`."""
        if ASKED not in self._study.user_attrs:
            self._study.set_user_attr(ASKED, now)
        return self._study.user_attrs[ASKED]

    @property
    def total(self) -> int:
        """The total number of trainings, counting all settings tried if they exceed the request."""
        settings = max(self._tune.trials, len(by_setting(self.trials)))
        return count_trainings(settings, self._tune.seeds)

    @property
    def left(self) -> int:
        """The number of trainings that have not ended."""
        over = sum(trial.state != UNDER_WAY for trial in self.trials)
        return max(self.total - over, 0)

    def next(self) -> FrozenTrial | None:
        """Return the trial that is under way, or else a new one, or None if all have ended."""
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
        """Draw a new setting, given the results of the others on their first seed."""
        seeded = f"{self.contender.router}\n{self.contender.seed}\n{len(settings)}"
        seed = int.from_bytes(hashlib.sha256(seeded.encode()).digest()[:4], "big")
        first = [trials[0] for trials in settings]
        return draw(first, self.contender.space, seed, self._pruner, study=self._name)

    def set_training(self, number: int, fingerprint: str) -> None:
        """Record which training a trial is, unless another run has recorded its end meanwhile."""
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(self._id(number), TRAINING, fingerprint)

    def report(self, number: int, evaluation: int, accuracy: float) -> bool:
        """Record an evaluation of a trial.

        Args:
            evaluation: number of evaluations so far, including this one.

        Returns:
            Whether the trial should end early. Trials on further seeds never do, since a mean is
            taken over them.
        """
        if self.trials[number].user_attrs.get(REPEAT, 0):
            return False
        self._storage.set_trial_intermediate_value(self._id(number), evaluation, accuracy)
        return self._pruner.prune(self._study, self.trials[number])

    def stop(self, number: int, reason: str) -> None:
        """Mark a trial as stopped, whatever becomes of its process."""
        self._storage.set_trial_user_attr(self._id(number), STOPPED, reason)

    def end(self, number: int, status: str, accuracy: float) -> None:
        """Record that a trial has ended, unless that is already recorded.

        Args:
            status: status of the trial's attempt. A stopped trial counts as pruned even if its
                process ended before the request reached it: speed must not matter.
            accuracy: accuracy on the validation split; 0 if there is no model, so that later draws
                avoid such settings.
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
    """Return the settings that Optuna's TPE tries after these trials, given the arguments alone.

    They are drawn from a study in memory, so that a trial is stored with all its settings or not
    at all.
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
