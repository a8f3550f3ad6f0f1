"""One training, from its first step to its outcome."""

from bench.train.checkpoint import discard_state
from bench.train.evaluation import observe
from bench.train.micro_batches import refuse_other_optimisation, why_not_cut
from bench.train.outcome import Outcome, SavedSnapshot, read_outcome
from bench.train.trial import SAVE_EVERY, Progress, TrainingInterrupted, train_trial

__all__ = [
    "SAVE_EVERY",
    "Outcome",
    "Progress",
    "SavedSnapshot",
    "TrainingInterrupted",
    "discard_state",
    "observe",
    "read_outcome",
    "refuse_other_optimisation",
    "train_trial",
    "why_not_cut",
]
