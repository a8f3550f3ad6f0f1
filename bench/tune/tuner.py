"""The trials of a tuning, one after the other for each router, routers side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.datasets import Datasets
from bench.execute.events import Ended, Listener, Progress, Task
from bench.execute.jobs import Job, TrialJob
from bench.execute.workplace import trial_folder
from bench.fingerprint import Fingerprints
from bench.outcome import read_outcome
from bench.plan import Planned
from bench.record import Rows, add_to_study
from bench.resume import discard
from bench.reuse import Reuse
from bench.tune.contender import Contender
from bench.tune.search import Draw, Search
from results import AttemptRecord, Store
from results.outcomes import UNFINISHED
from results.records import AttemptStatus
from routers.errors import BenchError, RequestError


@dataclass
class _Trial:
    """One that is under way, and how many of its evaluations were seen."""

    contender: Contender
    draw: Draw
    evaluations: int = 0


@dataclass
class Tuner:
    """A `Source` of jobs: each router's next trial follows its last one.

    Attributes:
        searches: of each contender.
        limit: trials of each router.
        study: row of the study that shows them.
        rows: grows with the trials.
        tell: is told each trial that cannot be begun.
    """

    contenders: Sequence[Contender]
    searches: dict[str, Search]
    limit: int
    store: Store
    home: Path
    datasets: Datasets
    reuse: Reuse
    study: int
    rows: Rows
    tell: Listener
    _fingerprints: Fingerprints = field(default_factory=Fingerprints)
    _trials: dict[str, _Trial] = field(default_factory=dict)

    @property
    def left(self) -> tuple[Task, ...]:
        """The trials that are not over."""
        return tuple(
            self._task(contender, number)
            for contender in self.contenders
            for number in range(self.searches[contender.router].over, self.limit)
        )

    @property
    def ended(self) -> int:
        """How many trials are over."""
        return len(self.contenders) * self.limit - len(self.left)

    def first(self) -> list[Job]:
        """Where each router goes on, or begins."""
        return [job for contender in self.contenders for job in self._next(contender)]

    def seen(self, job: Job, progress: Progress) -> str | None:
        """Why a training ends early: its router's others were better at this point."""
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

    def over(self, job: Job) -> Iterable[Job]:
        """The same router's next trial; none where this one was interrupted."""
        trial = self._trials[job.planned.fingerprint.value]
        return self._next(trial.contender) if self._end(job, trial) else ()

    def _next(self, contender: Contender) -> Iterator[Job]:
        """The next trial that is not done yet; what another run did meanwhile is written down."""
        search = self.searches[contender.router]
        while (draw := search.next(self.limit)) is not None:
            task = self._task(contender, draw.number)
            try:
                planned = contender.planned(draw.settings, self.datasets, self._fingerprints)
            except RequestError as error:  # settings that do not fit each other cost their trial
                search.end(draw.number, AttemptStatus.FAILED, 0.0)
                self.tell(Ended(task, AttemptStatus.FAILED, 0.0, str(error)))
                continue
            self.rows.trials.update(add_to_study(self.study, [planned], [], self.store).trials)
            trial = _Trial(contender, draw)
            self._trials[planned.fingerprint.value] = trial
            search.told(draw.number, planned.fingerprint.value)
            self._give_up_stopped(planned, draw)
            (decision,) = self.reuse.trials([planned])
            job = TrialJob(planned, decision, task)
            if not job.idle:
                yield job
                return
            self._end(job, trial)

    def _give_up_stopped(self, planned: Planned, draw: Draw) -> None:
        """What was to stop when its process was killed is over."""
        attempt = self.store.last_attempt(planned.fingerprint.value)
        if draw.stopped is not None and attempt is not None and attempt.status in UNFINISHED:
            self.store.finish_attempt(attempt.id, AttemptStatus.PRUNED, error=draw.stopped)
            discard(trial_folder(self.home, planned.fingerprint.value))

    def _end(self, job: Job, trial: _Trial) -> bool:
        """Write down how a trial ended; False where it did not."""
        attempt = self.store.last_attempt(job.planned.fingerprint.value)
        if attempt is None or attempt.status in UNFINISHED:
            return False
        status, accuracy = self._result(attempt)
        self.searches[trial.contender.router].end(trial.draw.number, status, accuracy)
        return True

    def _result(self, attempt: AttemptRecord) -> tuple[AttemptStatus, float]:
        """How it ended, and the share of the validation split that was right at the end."""
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
