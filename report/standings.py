"""The accuracies that ranks are made of: every system under every condition."""

from __future__ import annotations

import pandas as pd

from report.comparisons import METRIC
from report.study import StudyData
from results.statistics.ranks import FEWEST_BLOCKS, FEWEST_SYSTEMS


def standings(study: StudyData) -> pd.DataFrame:
    """Mean accuracy over seeds: a row a condition, a column a system that has one under each.

    Left out are systems that failed under a condition, and those with one entry for several, as
    `dense` where only the capacity differs: the same runs would count as several blocks.
    """
    found = {}
    for router in study.routers:
        entries = [study.entry(router, condition) for condition in study.conditions]
        means = [study.final(METRIC, entry).mean() for entry in entries]
        if len(set(entries)) == len(entries):
            found[router] = means
    return pd.DataFrame(found, index=study.conditions).dropna(axis=1)


def why_not(values: pd.DataFrame) -> str:
    """Why these have no ranking; "" where they have one."""
    blocks, systems = values.shape
    if blocks < FEWEST_BLOCKS or systems < FEWEST_SYSTEMS:
        return (
            f"Friedman's test over conditions needs at least {FEWEST_BLOCKS} of them and "
            f"{FEWEST_SYSTEMS} routers with results under each; here are {blocks} and {systems}"
        )
    if (values.nunique(axis=1) == 1).all():
        return "under each condition all routers reached the same accuracy"
    return ""
