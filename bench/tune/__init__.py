"""Equal tuning: as many trials for each router, over the same ranges and its own."""

from bench.tune.search import search_results, with_tuned
from bench.tune.tuner import Tuning, tune, tuning_of
