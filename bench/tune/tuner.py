"""A router that is tuned: where it searches, and the trial that its settings make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.data import Datasets
from bench.execute import Begun, Ended, Job, OnEvent, Progress, Task, trial_folder
from bench.plan import (
    Decision,
    Fingerprints,
    Planned,
    Reuse,
    add_to_study,
)
from bench.train import discard_state, read_outcome
from bench.tune.search import Draw, Search
from bench.tune.space import Contender
from results import AttemptRecord, Store
from results.store.leases import alive
from results.store.outcomes import UNFINISHED
from results.store.records import AttemptStatus
from routers.errors import BenchError, RequestError


@dataclass
class _Trial:
    """A trial under way, and how many of its evaluations were seen."""

    contender: Contender
    draw: Draw
    evaluations: int = 0


@dataclass
class Tuner:
    """The `JobSource` of a tuning: each router's next trial follows its last one.

    Attributes:
        study: the tuning's name.
        request: as plain data, for the study's row.
        untuned: each contender's training with nothing tuned.
        searches: of each contender.
        limit: trials of each router.
        emit: called with each event.
        rows: grow with the trials.
        children: none; nothing is derived.
    """

    study: str
    request: Mapping[str, Any]
    contenders: Sequence[Contender]
    untuned: Sequence[Planned]
    searches: dict[str, Search]
    limit: int
    store: Store
    home: Path
    datasets: Datasets
    reuse: Reuse
    emit: OnEvent
    rows: dict[str, int] = field(default_factory=dict)
    children: Mapping[str, Sequence[Planned]] = field(default_factory=dict)
    _study_id: int = 0
    _fingerprints: Fingerprints = field(default_factory=Fingerprints)
    _trials: dict[str, _Trial] = field(default_factory=dict)

    def pending(self) -> list[Job]:
        """Return each router's training with nothing tuned, where a trial is not over.

        What is wrong with the settings of one trial costs that trial alone.
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
        self._study_id = self.store.study(self.study, dict(self.request))
        return self.rows

    def begin(self, run_id: int) -> list[Job]:
        """Return where each router goes on, or begins.

        Raises:
            BenchError: another process, that began before, works on this tuning.
        """
        refuse_second(self.study, self.store, run_id)
        self.emit(Begun(self._unfinished()))
        return [job for contender in self.contenders for job in self._next(contender)]

    def _unfinished(self) -> int:
        return sum(max(self.limit - search.over, 0) for search in self.searches.values())

    def why_prune(self, job: Job, progress: Progress) -> str | None:
        """Say why a training ends early: its router's others were better at this point."""
        trial = self._trials[job.planned.fingerprint.value]
        if progress.accuracy is None or progress.evaluations <= trial.evaluations:
            return None
        trial.evaluations = progress.evaluations
        search = self.searches[trial.contender.router]
        stop = search.report(trial.draw.number, progress.evaluations, progress.accuracy)
        if not stop or progress.step >= progress.steps:
            return None
        top1, step = f"{100 * progress.accuracy:.1f} %", f"step {progress.step} of {progress.steps}"
        reason = f"not promising: validation top-1 {top1} at {step}"
        search.stop(trial.draw.number, reason)
        return reason

    def following(self, job: Job) -> Iterable[Job]:
        """Return the same router's next trial; none where this one was interrupted."""
        trial = self._trials[job.planned.fingerprint.value]
        return self._next(trial.contender) if self._end(job, trial) else ()

    def _next(self, contender: Contender) -> Iterator[Job]:
        """Yield the next trial that is not done; write down what another run did meanwhile."""
        search = self.searches[contender.router]
        while (draw := search.next(self.limit)) is not None:
            task = self._task(contender, draw.number)
            try:
                planned = contender.planned(draw.settings, self.datasets, self._fingerprints)
            except RequestError as error:  # settings that do not fit each other cost their trial
                search.end(draw.number, AttemptStatus.FAILED, 0.0)
                self.emit(Ended(task, AttemptStatus.FAILED, 0.0, str(error)))
                continue
            self.rows.update(add_to_study(self._study_id, [planned], [], self.store))
            trial = _Trial(contender, draw)
            self._trials[planned.fingerprint.value] = trial
            search.set_training(draw.number, planned.fingerprint.value)
            self._give_up_stopped(planned, draw)
            (decision,) = self.reuse.trials([planned])
            job = Job(planned, decision, task)
            if not job.idle:
                yield job
                return
            self._end(job, trial)

    def _give_up_stopped(self, planned: Planned, draw: Draw) -> None:
        """End a trial that was to stop when its process was killed."""
        attempt = self.store.last_attempt(planned.fingerprint.value)
        if draw.stopped is not None and attempt is not None and attempt.status in UNFINISHED:
            self.store.finish_attempt(attempt.id, AttemptStatus.PRUNED, error=draw.stopped)
            discard_state(trial_folder(self.home, planned.fingerprint.value))

    def _end(self, job: Job, trial: _Trial) -> bool:
        """Write down how a trial ended; False where it did not."""
        attempt = self.store.last_attempt(job.planned.fingerprint.value)
        if attempt is None or attempt.status in UNFINISHED:
            return False
        status, accuracy = self._result(attempt)
        self.searches[trial.contender.router].end(trial.draw.number, status, accuracy)
        return True

    def _result(self, attempt: AttemptRecord) -> tuple[AttemptStatus, float]:
        """Return how it ended, and the share of the validation split that was right at the end."""
        if attempt.status != AttemptStatus.DONE:
            return attempt.status, 0.0
        try:
            outcome = read_outcome((self.home / str(attempt.checkpoint)).parent)
        except BenchError:  # somebody deleted it
            return AttemptStatus.FAILED, 0.0
        *_, last = (point.value for point in outcome.history if point.name == "val_top1")
        return AttemptStatus.DONE, last

    def _task(self, contender: Contender, number: int) -> Task:
        place = self.contenders.index(contender) * self.limit + number + 1
        total = len(self.contenders) * self.limit
        return Task(contender.router, contender.training_seed, place, total)


def refuse_second(study: str, store: Store, run_id: int | None = None) -> None:
    """Let, of two processes that tune at once, the one that was written down first go on.

    Args:
        run_id: this one's; None before it is written down.

    Raises:
        BenchError: this is not the first.
    """
    for run in store.runs(study):
        if (run_id is None or run.id < run_id) and alive(run):
            raise BenchError(
                f"{study} is tuned already by process {run.pid} on {run.node}: {run.command}"
            )
