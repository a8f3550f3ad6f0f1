"""Equal tuning: the same number of trainings for each router, over shared ranges and its own."""

from bench.tune.best_settings import search_results, with_tuned
from bench.tune.merging import MergedTunings, merge_tunings
from bench.tune.tuner import Tuning, prepare_tuning, tune, tuning_of
