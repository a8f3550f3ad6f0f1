"""A whole tuning: the same number of trainings for each router, in the workers of `run`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from bench.config import Preset
from bench.data import Datasets
from bench.execute import (
    Begun,
    Ended,
    Job,
    OnEvent,
    Progress,
    Runner,
    RunOptions,
    RunSummary,
    Task,
    most_ranks,
    refuse_few_gpus,
    trial_folder,
)
from bench.plan import Decision, Fingerprints, Planned, add_to_study, differences, selected_routers
from bench.train import discard_state, read_outcome
from bench.tune.rungs import count_trainings
from bench.tune.search import REPEAT, STOPPED, Search
from bench.tune.space import contenders
from bench.tune.storage import open_tuning
from results import Store
from results.store.records import UNFINISHED, AttemptStatus, ComponentRef, TrialRecord
from routers.errors import BenchError, RequestError


def tuning_of(preset: str) -> str:
    """Return the default name of a preset's tuning."""
    return f"{preset}-tuning"


@dataclass(frozen=True)
class Tuning:
    """A tuning as the user requested it.

    Attributes:
        study: the name of the tuning.
        preset: the preset with all overrides applied; its `tune` has the numbers of settings and
            seeds, and the ranges that are searched.
        seed: the seed of all draws.
        fixed: the paths that the user has set; they are not searched.
    """

    study: str
    preset: Preset
    seed: int = 0
    fixed: frozenset[str] = frozenset()

    def record(self) -> dict[str, Any]:
        """Return the request as plain data, for the study's row."""
        each = count_trainings(self.preset.tune.trials, self.preset.tune.seeds)
        trials = len(selected_routers(self.preset)) * each
        tuning = {"seed": self.seed, "trials": trials}
        return {"tuning": tuning, "preset": self.preset.record()}


def tune(
    tuning: Tuning,
    store: Store,
    home: Path,
    datasets: Datasets,
    on_event: OnEvent,
    options: RunOptions,
) -> RunSummary:
    """Do what is left of a tuning.

    Raises:
        RequestError: something cannot be tuned or trained as asked for.
        KeyboardInterrupt, StoreError: as in `bench.execute.runner.Runner.run`.
    """
    with _opened(tuning, store, home, datasets, on_event, options) as tuner:
        return tuner.runner.run(tuner)


def prepare_tuning(
    tuning: Tuning, store: Store, home: Path, datasets: Datasets, options: RunOptions, gpus: int
) -> int:
    """Check a tuning and write it, for workers of an array; returns how many routers are open.

    Args:
        gpus: those of each worker; 0 where it computes on the CPU.

    Raises:
        RequestError: something cannot be tuned or trained as asked for.
    """
    with _opened(tuning, store, home, datasets, lambda event: None, options, gpus) as tuner:
        return tuner.runner.prepare(tuner)


@contextmanager
def _opened(
    tuning: Tuning,
    store: Store,
    home: Path,
    datasets: Datasets,
    on_event: OnEvent,
    options: RunOptions,
    gpus: int | None = None,
) -> Iterator["Tuner"]:
    """Open the search of each router, begun as it is asked for now.

    Args:
        gpus: those of each worker, where workers of an array train; None where this process does.
    """
    asked, fingerprints = contenders(tuning.preset, tuning.seed, tuning.fixed), Fingerprints()
    untuned = [contender.planned({}, datasets, fingerprints) for contender in asked]
    ranks = most_ranks(planned.spec for planned in untuned)
    if gpus is not None:
        refuse_few_gpus(ranks, gpus)
        ranks = 1  # the devices of this machine do not matter
    runner = Runner(store, home, datasets, on_event, options, ranks)
    with open_tuning(store.engine) as storage:
        searches = [Search(storage, tuning.study, each, tuning.preset.tune) for each in asked]
        for search, planned in zip(searches, untuned, strict=True):
            _refuse_other(tuning, search, planned)
        yield Tuner(tuning, searches, untuned, runner, store, datasets, fingerprints)


def _refuse_other(tuning: Tuning, search: Search, untuned: Planned) -> None:
    """Refuse to continue a search that was begun with a different request.

    Args:
        untuned: the router's trial with nothing tuned, which includes the seed.
    """
    contender, fingerprint = search.contender, untuned.fingerprint
    ranges = contender.space.items()
    now = {
        "pruner": tuning.preset.tune.pruner,
        **{f"range of {path}": distribution_to_json(where) for path, where in ranges},
        "description": fingerprint.description,
        "parts": [[part.kind, part.name, part.digest] for part in fingerprint.parts],
    }
    then = search.asked(now)
    if now == then:
        return
    changes = [
        f"{name} is {now.get(name, 'unset')}, was {then.get(name, 'unset')}"
        for name in {**then, **now}
        if name not in ("description", "parts") and now.get(name) != then.get(name)
    ]
    parts = tuple(ComponentRef(*part) for part in then["parts"])
    changes += differences(fingerprint, TrialRecord(0, "", then["description"], parts))
    raise RequestError(
        f"tuning {tuning.study!r} of {contender.router} was begun with another request: "
        f"{'; '.join(changes)}; give --study another name"
    )


@dataclass
class _Trial:
    """A trial under way, and the number of its evaluations that were reported."""

    search: Search
    number: int
    evaluations: int = 0


@dataclass
class Tuner:
    """The `JobSource` of a tuning: each router's next trial follows its last one.

    Simultaneous runs of one tuning share its routers: each run knows every router's trial under
    way, and trains those that no other run has leased.

    Attributes:
        searches: the search of each router.
        untuned: the training of each router with nothing tuned.
        rows: id of the database row of each trial, by fingerprint.
    """

    tuning: Tuning
    searches: Sequence[Search]
    untuned: Sequence[Planned]
    runner: Runner
    store: Store
    datasets: Datasets
    fingerprints: Fingerprints
    rows: dict[str, int] = field(default_factory=dict)
    _study_id: int = 0
    _trials: dict[str, _Trial] = field(default_factory=dict)

    @property
    def study(self) -> str:
        return self.tuning.study

    def pending(self) -> list[Job]:
        """Return each router's training with nothing tuned, if any trial has not ended.

        Faulty settings of one trial cost only that trial.
        """
        if not self._unfinished():
            return []
        decision, total = Decision(True, "rehearsed"), len(self.untuned)
        return [
            Job(each, decision, Task(each.label, each.spec.seed, number, total))
            for number, each in enumerate(self.untuned, 1)
        ]

    def record(self) -> dict[str, int]:
        """Write the study."""
        self._study_id = self.store.study(self.study, self.tuning.record())
        return self.rows

    def begin(self, run_id: int) -> list[Job]:
        """Return the trial with which each router continues or begins."""
        self.runner.emit(Begun(self._unfinished()))
        return [job for search in self.searches for job in self._next(search)]

    def _unfinished(self) -> int:
        return sum(search.left for search in self.searches)

    def why_prune(self, job: Job, progress: Progress) -> str | None:
        """Return why a training should end early (its router's others were better), or None."""
        trial = self._trials[job.planned.fingerprint.value]
        if progress.accuracy is None or progress.evaluations <= trial.evaluations:
            return None
        trial.evaluations = progress.evaluations
        stop = trial.search.report(trial.number, progress.evaluations, progress.accuracy)
        if not stop or progress.step >= progress.steps:
            return None
        top1, step = f"{100 * progress.accuracy:.1f} %", f"step {progress.step} of {progress.steps}"
        reason = f"not promising: validation top-1 {top1} at {step}"
        trial.search.stop(trial.number, reason)
        return reason

    def following(self, job: Job) -> Iterable[Job]:
        """Return the same router's next trial, or nothing if this one was interrupted."""
        trial = self._trials[job.planned.fingerprint.value]
        return self._next(trial.search) if self._end(job.planned, trial) else ()

    def _next(self, search: Search) -> Iterator[Job]:
        """Yield the next trial that is not done; record what another run has done meanwhile."""
        while (drawn := self._drawn(search)) is not None:
            number, repeat = drawn.number, drawn.user_attrs.get(REPEAT, 0)
            task = self._task(search, number, repeat)
            try:
                planned = search.contender.planned(
                    drawn.params, self.datasets, self.fingerprints, repeat
                )
            except RequestError as error:  # incompatible settings cost only their own trial
                with self.store.alone():
                    search.end(number, AttemptStatus.FAILED, 0.0)
                self.runner.emit(Ended(task, AttemptStatus.FAILED, 0.0, str(error)))
                continue
            fingerprint, trial = planned.fingerprint.value, _Trial(search, number)
            self.rows.update(add_to_study(self._study_id, [planned], [], self.store))
            self._trials[fingerprint] = trial
            search.set_training(number, fingerprint)
            attempt, stopped = self.store.last_attempt(fingerprint), drawn.user_attrs.get(STOPPED)
            under_way = attempt if attempt and attempt.status in UNFINISHED else None
            if under_way and stopped and self.rows[fingerprint] not in self.store.held():
                # Its process was killed before it stopped.
                self.store.finish_attempt(under_way.id, AttemptStatus.PRUNED, error=stopped)
                discard_state(trial_folder(self.runner.context.home, fingerprint))
            (decision,) = self.runner.reuse.trials([planned])
            job = Job(planned, decision, task)
            if not job.idle:
                yield job
                return
            self._end(planned, trial)

    def _drawn(self, search: Search) -> FrozenTrial | None:
        """Return the trial under way, or else a new one that no other run adds at the same time."""
        with self.store.alone():
            return search.next()

    def _task(self, search: Search, number: int, repeat: int) -> Task:
        totals = [each.total for each in self.searches]
        before = sum(totals[: self.searches.index(search)])
        seed = search.contender.training_seed(repeat)
        return Task(search.contender.router, seed, before + number + 1, sum(totals))

    def _end(self, planned: Planned, trial: _Trial) -> bool:
        """Record how a trial ended; return False if it has not ended."""
        attempt = self.store.last_attempt(planned.fingerprint.value)
        if attempt is None or attempt.status in UNFINISHED:
            return False
        status, accuracy = attempt.status, 0.0
        if status == AttemptStatus.DONE:
            try:
                outcome = read_outcome((self.runner.context.home / str(attempt.checkpoint)).parent)
            except BenchError:  # the folder was deleted
                status = AttemptStatus.FAILED
            else:
                *_, accuracy = (p.value for p in outcome.history if p.name == "val_top1")
        with self.store.alone():  # another run may see its end too
            trial.search.end(trial.number, status, accuracy)
        return True
