"""Honest statistics over seeds: intervals, paired comparisons, families of tests, ranks, power.

scipy and scikit-posthocs hold the tests. `results.statistics.ranks` loads the slow `scipy.stats`,
so it is imported by its name.
"""

from results.statistics.comparisons import (
    FEWEST,
    NULLS,
    Alarms,
    Compared,
    alarms,
    declared,
    family,
    holm,
    interim_analyses,
    is_decided,
    noise_floor,
)
from results.statistics.means import (
    ALPHA,
    Interval,
    PairedDifference,
    effect_size,
    mean_interval,
    paired,
    paired_difference,
    power_of,
    seeds_needed,
    superiority,
)

__all__ = [
    "ALPHA",
    "FEWEST",
    "NULLS",
    "Alarms",
    "Compared",
    "Interval",
    "PairedDifference",
    "alarms",
    "declared",
    "effect_size",
    "family",
    "holm",
    "interim_analyses",
    "is_decided",
    "mean_interval",
    "noise_floor",
    "paired",
    "paired_difference",
    "power_of",
    "seeds_needed",
    "superiority",
]
