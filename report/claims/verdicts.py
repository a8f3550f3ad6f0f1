"""Claims put to the test: supported, contradicted or undecided, by the runs of one study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from report.claims.claims import Claim, Side, published
from report.claims.evidence import Evidence, Unfit, difference, slope
from report.study import StudyData
from results.statistics import ALPHA, PairedDifference, holm, paired_difference

DEFAULT_MATCH = "total_flops"


@dataclass(frozen=True)
class Judged:
    """A claim that the runs can test.

    Attributes:
        difference: left less right, or the slope; of `outweighs`, by how much one effect is larger
            in size than the other.
        fits: whether the difference lies where it would support the claim.
        p: of the test that would decide it either way; None where there is one seed.
        adjusted: by Holm, over all claims tested.
        agreeing: the conditions whose difference lies where the claim would have it.
    """

    claim: Claim
    evidence: Evidence
    difference: PairedDifference
    fits: bool
    p: float | None
    adjusted: float | None
    agreeing: int

    @property
    def verdict(self) -> str:
        if self.adjusted is None or self.adjusted >= ALPHA:
            return "undecided"
        return "supported" if self.fits else "contradicted"


@dataclass(frozen=True)
class Untested:
    """A claim about what the runs do not hold."""

    claim: Claim
    why: str


def judged(study: StudyData) -> list[Judged | Untested]:
    """Return every published claim and the user's own, in order."""
    all_ = [_tested(study, claim) for claim in (*published(), *study.claims)]
    # One whose differences are all alike, or of one seed, has no p, but was asked, so it counts.
    p_values = [1.0 if e.p is None else e.p for e in all_ if isinstance(e, Judged)]
    adjusted = iter(holm(p_values))
    return [_adjusted(each, next(adjusted)) if isinstance(each, Judged) else each for each in all_]


def _adjusted(claim: Judged, p: float) -> Judged:
    return claim if claim.p is None else replace(claim, adjusted=p)


def _tested(study: StudyData, claim: Claim) -> Judged | Untested:
    match = study.compute.get("match", DEFAULT_MATCH)
    if claim.matched and match not in claim.matched:
        return Untested(claim, f"compute was matched by {match}")
    try:
        if claim.test == "outweighs":
            return _outweighs(study, claim)
        evidence = (
            difference(study, claim, claim.left, claim.right)
            if claim.right
            else slope(study, claim, claim.left, cast(str, claim.over))
        )
    except Unfit as missing:
        return Untested(claim, str(missing))
    sample = evidence.by_seed.tolist()
    at = [claim.margin, -claim.margin] if claim.margin else [0.0]
    p_values = [_test(study, sample, null).p_value for null in at]
    agreeing = sum(_fits(claim, mean) for mean in evidence.by_condition.values())
    whole = _test(study, sample)
    return Judged(
        claim, evidence, whole, _fits(claim, whole.mean), _largest(p_values), None, agreeing
    )


def _fits(claim: Claim, mean: float) -> bool:
    """Tell whether a difference is as the claim has it."""
    if claim.margin:
        return abs(mean) < claim.margin
    return mean < 0 if claim.test in ("lower", "falls") else mean > 0


def _outweighs(study: StudyData, claim: Claim) -> Judged:
    """Of effects a and b, a + b and a - b are the two differences: |a| > |b| where signs agree.

    The smaller of the two, with the sign of the larger, is |a| - |b|.
    """
    pairs = [(claim.left, claim.right), (claim.other_left, claim.other_right)]
    both = [difference(study, claim, cast(Side, a), cast(Side, b)) for a, b in pairs]
    seeds = both[0].by_seed.index.intersection(both[1].by_seed.index)
    if seeds.empty:
        raise Unfit("the runs that it needs have no seed in common")
    tests = [_test(study, each.by_seed[seeds].tolist()) for each in both]
    smaller, larger = sorted(tests, key=lambda test: abs(test.mean))
    shown = smaller if larger.mean > 0 else _negated(smaller)
    common = both[0].by_condition.keys() & both[1].by_condition.keys()
    agreeing = sum(both[0].by_condition[c] * both[1].by_condition[c] > 0 for c in common)
    evidence = replace(
        both[0],
        by_condition={c: mean for c, mean in both[0].by_condition.items() if c in common},
        systems=tuple(dict.fromkeys(system for each in both for system in each.systems)),
        trials=tuple(dict.fromkeys(trial for each in both for trial in each.trials)),
    )
    p = _largest([test.p_value for test in tests])
    return Judged(claim, evidence, shown, shown.mean > 0, p, None, agreeing)


def _test(study: StudyData, sample: Sequence[float], null: float = 0.0) -> PairedDifference:
    """Return the mean of a sample, held against a number; both as the planned analyses demand."""
    test = paired_difference(sample, [null] * len(sample), study.confidence)
    if test.p_value is None:
        return test
    return replace(test, p_value=min(1.0, study.planned_analyses * test.p_value))


def _negated(test: PairedDifference) -> PairedDifference:
    ends = (None, None) if test.low is None or test.high is None else (-test.high, -test.low)
    return replace(test, mean=-test.mean, low=ends[0], high=ends[1])


def _largest(p_values: Sequence[float | None]) -> float | None:
    known = [p for p in p_values if p is not None]
    return max(known) if len(known) == len(p_values) else None
