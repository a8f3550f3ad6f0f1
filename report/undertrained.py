"""Undertrained baselines: at equal compute, a large one takes few steps."""

from collections import defaultdict
from collections.abc import Iterable

from report.comparisons import Comparison, against_nulls
from report.conditions import System
from report.study import StudyData

FEW = 0.5
"""A baseline with fewer steps than this share of a router's counts as undertrained."""


def share_of_steps(study: StudyData, comparison: Comparison) -> float | None:
    """Return the ratio of an undertrained reference's steps to the router's.

    None if the reference is itself a router or has enough steps.
    """
    if not study.is_baseline(comparison.reference.system):
        return None
    own, theirs = (study.steps.get(e) for e in (comparison.entry, comparison.reference))
    if not own or theirs is None or theirs >= FEW * own:
        return None
    return theirs / own


def verdict(study: StudyData, comparison: Comparison) -> str:
    """Return the verdict of a comparison, with a warning if its reference is undertrained."""
    if share_of_steps(study, comparison) is None:
        return comparison.verdict
    return f"{comparison.verdict} (undertrained reference)"


def caption(study: StudyData, compared: Iterable[Comparison]) -> str:
    """Explain what an undertrained reference is, or return "" if there is none."""
    if all(share_of_steps(study, comparison) is None for comparison in compared):
        return ""
    return (
        f"Undertrained reference: it took less than {100 * FEW:g} % of the router's steps, so a "
        "lead over it says little about the router."
    )


def sentence(study: StudyData) -> str:
    """Return a sentence that names the undertrained baselines, or "" if there are none."""
    shares: dict[System, list[float]] = defaultdict(list)
    for comparison in against_nulls(study):
        if (share := share_of_steps(study, comparison)) is not None:
            shares[comparison.reference.system].append(share)
    return " ".join(_sentence(system, own) for system, own in shares.items())


def _sentence(system: System, shares: list[float]) -> str:
    ends = [f"{100 * end:.0f}" for end in (min(shares), max(shares))]
    between = ends[0] if ends[0] == ends[1] else " to ".join(ends)
    return (
        f"{system} took {between} % of the steps of the routers that it is compared with: for its "
        "size the compute is spent before it is trained, so no lead over it is claimed."
    )
