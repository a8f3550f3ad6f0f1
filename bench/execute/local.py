"""One job, done in this process: a trial trained and measured, or a bare layer measured."""

from __future__ import annotations

from functools import partial

from bench.config import TrialSpec
from bench.execute.assignment import Assignment, Result
from bench.execute.events import Waiting
from bench.execute.jobs import TrialJob
from bench.execute.locks import timing, training
from bench.execute.measuring import measure
from bench.execute.training import train
from bench.execute.workplace import Workplace
from bench.outcome import read_outcome
from bench.subject import LayerOfTrial, TrainedTrial
from results import AttemptRecord
from results.records import AttemptStatus
from routers.errors import BenchError


def do(assignment: Assignment, work: Workplace) -> Result:
    """Do a job; a failure of what is trained or measured is written down, and no error here.

    Timings have the device to themselves, whoever else runs on this machine.

    Raises:
        StoreError: something could not be written.
        StoppedWaiting: it was asked to leave before it had the device.
    """
    job = assignment.job

    def waiting(who: str) -> None:
        work.tell(Waiting(job.task, who, machine=True))

    if isinstance(job, TrialJob):
        with training(work.device, waiting, work.stop):
            return _trial(assignment, job, work)
    with timing(work.device, waiting, work.stop):
        spec = job.planned.spec
        subject = partial(LayerOfTrial, spec, work.datasets.get(spec.data), work.device)
        measure(job.due, subject, work, job.task, layer_id=assignment.row)
    return Result()


def _trial(assignment: Assignment, job: TrialJob, work: Workplace) -> Result:
    planned, decision, result = job.planned, job.decision, Result()
    done = decision.attempt
    if decision.train:
        result = train(assignment, planned, decision.reason, work)
        done = work.store.last_attempt(planned.fingerprint.value)
    if done is not None and done.status == AttemptStatus.DONE:
        subject = partial(_trained, planned.spec, done, work)
        measure(decision.due, subject, work, job.task, attempt_id=done.id)
    return result


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
