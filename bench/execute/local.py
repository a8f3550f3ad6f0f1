"""Jobs one after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from bench.config import TrialSpec
from bench.execute.events import Reused
from bench.execute.jobs import Job, LayerJob, TrialJob
from bench.execute.measuring import measure
from bench.execute.training import attempt
from bench.execute.workplace import Workplace
from bench.outcome import read_outcome
from bench.record import Rows
from bench.subject import LayerOfTrial, TrainedTrial
from results import AttemptRecord
from routers.errors import BenchError


def run_here(jobs: Iterable[Job], rows: Rows, work: Workplace) -> None:
    """Do each job; a failure is told and written down, and the others go on."""
    for job in jobs:
        if isinstance(job, TrialJob):
            _trial(job, rows.trials[job.planned.fingerprint.value], work)
        else:
            _layer(job, rows.layers[job.planned.fingerprint.value], work)


def _trial(job: TrialJob, trial_id: int, work: Workplace) -> None:
    planned, decision, done = job.planned, job.decision, job.decision.attempt
    if decision.train:
        done = attempt(planned, trial_id, decision.reason, work, job.task)
    elif done is not None:
        work.tell(Reused(job.task, done.status, decision.reason))
    if done is not None and done.status == "done":
        subject = partial(_trained, planned.spec, done, work)
        measure(decision.due, subject, work, job.task, attempt_id=done.id)


def _layer(job: LayerJob, layer_id: int, work: Workplace) -> None:
    spec = job.planned.spec
    subject = partial(LayerOfTrial, spec, work.datasets.get(spec.data), work.device)
    measure(job.due, subject, work, job.task, layer_id=layer_id)


def _trained(spec: TrialSpec, done: AttemptRecord, work: Workplace) -> TrainedTrial:
    assert done.checkpoint is not None  # a done attempt has one
    folder = (work.home / done.checkpoint).parent
    outcome = read_outcome(folder)
    if outcome.sha256 != done.checkpoint_sha256:
        raise BenchError(
            f"{folder} is not what trial {done.fingerprint[:10]} left there: the SHA-256 of its "
            f"final weights is {outcome.sha256}, in the database {done.checkpoint_sha256}; delete "
            "the folder to train the trial again"
        )
    return TrainedTrial(spec, work.datasets.get(spec.data), outcome, work.device)
