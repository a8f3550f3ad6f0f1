"""Honest statistics over seeds: intervals, paired comparisons, families of tests, ranks, power.

scipy and scikit-posthocs hold the tests. What needs the slow `scipy.stats` stands in the modules
`control`, `effects` and `ranks`, which are imported by their names.
"""

from results.statistics.declared import Compared, declared, family
from results.statistics.intervals import Interval, mean_interval
from results.statistics.paired import ALPHA, PairedDifference, holm, paired_difference, seeds_needed

__all__ = [
    "ALPHA",
    "Compared",
    "Interval",
    "PairedDifference",
    "declared",
    "family",
    "holm",
    "mean_interval",
    "paired_difference",
    "seeds_needed",
]
