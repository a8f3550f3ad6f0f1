"""A training run, from its first step to its outcome."""

from bench.train.checkpoint import discard_state
from bench.train.evaluation import observe
from bench.train.loop import SAVE_EVERY, TrainingInterrupted, train_trial
from bench.train.micro_batches import refuse_other_optimisation, why_not_cut
from bench.train.outcome import Outcome, SavedSnapshot, read_outcome
from bench.train.ranks import ALONE, RankLostError, Ranks, joined
