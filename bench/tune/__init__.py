"""Equal tuning: as many trials for each router, over the same ranges and its own."""

from bench.tune.best_settings import found, with_tuned
from bench.tune.tuning import Tuning, tune

__all__ = ["Tuning", "found", "tune", "with_tuned"]
