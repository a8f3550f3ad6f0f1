"""The training of a trial in this process, alone or as one of its ranks, and its results."""

from bench.config import TrialSpec
from bench.data import load_weights
from bench.execute.context import JobContext, trial_folder
from bench.execute.events import Progress
from bench.execute.jobs import Assignment
from bench.measure import TrainedTrial
from bench.model import Parent, trial_model
from bench.plan import Planned
from bench.train import ALONE, Outcome, Ranks, read_outcome, train_trial
from results import AttemptRecord
from routers.errors import BenchError


def train_here(assignment: Assignment, context: JobContext, ranks: Ranks = ALONE) -> Outcome:
    """Train the trial of a job; return and raise what `train_trial` does."""
    job, spec = assignment.job, assignment.job.planned.spec
    return train_trial(
        spec,
        context.datasets.get(spec.data),
        context.device,
        trial_folder(context.run.home, job.fingerprint),
        lambda *progress: context.emit(Progress(job.task, *progress)),
        parent_of(job.planned, context),
        ranks=ranks,
        save_every=context.run.options.save_every,
        stop=context.stop,
    )


def parent_of(planned: Planned, context: JobContext) -> Parent | None:
    """Return the trained trial that a derived one starts from, with its model on the CPU, or None.

    Raises:
        BenchError: the parent has no weights; the message says what happened to it.
    """
    spec, fingerprint = planned.spec.parent, planned.fingerprint.parent
    if spec is None or fingerprint is None:
        return None
    done = context.store.done_attempt(fingerprint)
    if done is None or done.checkpoint is None or done.checkpoint_sha256 is None:
        last = context.store.last_attempt(fingerprint)
        how = f"{last.status.replace('_', ' ')}: {last.error}" if last else "was not trained"
        name = f"{spec.router.name} seed {spec.seed} (trial {fingerprint[:10]})"
        raise BenchError(f"its parent, {name}, {how}")
    model = trial_model(spec, context.datasets.get(spec.data))
    load_weights(model, context.run.home / done.checkpoint, done.checkpoint_sha256)
    return Parent(model, lambda: trained_trial(spec, done, context).start())


def trained_trial(spec: TrialSpec, done: AttemptRecord, context: JobContext) -> TrainedTrial:
    """Return the trained trial that a done attempt left.

    Raises:
        BenchError: the trial's folder holds something else.
    """
    assert done.checkpoint is not None  # a done attempt has one
    folder = (context.run.home / done.checkpoint).parent
    outcome = read_outcome(folder)
    if outcome.sha256 != done.checkpoint_sha256:
        raise BenchError(
            f"{folder} is not what trial {done.fingerprint[:10]} left there: the SHA-256 of its "
            f"final weights is {outcome.sha256}, in the database {done.checkpoint_sha256}; delete "
            "the folder to train the trial again"
        )
    return TrainedTrial(spec, context.datasets.get(spec.data), outcome, context.device)
