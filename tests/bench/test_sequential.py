"""Simulations show that the stopping rule keeps the error rate that a naive one breaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bench.config.presets import load_preset
from bench.plan.plan import make_request
from bench.plan.sequential import Sequential, add_seeds, plan_analyses, refuse_other_analyses
from results.statistics.comparisons import Compared, declared, family
from results.statistics.interim import interim_analyses
from results.statistics.means import paired_difference
from routers.errors import RequestError

SYSTEMS, NULLS = ["a", "b", "c"], ["dense", "random"]
ALIKE = dict.fromkeys([*SYSTEMS, *NULLS], 0.0)
ANALYSES = interim_analyses(3, 20)
STUDIES = 900


def simulated(
    means: Mapping[str, float], resolve: float, studies: int
) -> list[tuple[Sequential, list[Compared]]]:
    """Simulate studies with a noise of one point of top-1; return how the rule ended them."""
    rng = np.random.default_rng(20260101)
    return [_study(means, resolve, rng) for _ in range(studies)]


def _study(
    means: Mapping[str, float], resolve: float, rng: np.random.Generator
) -> tuple[Sequential, list[Compared]]:
    shared = rng.normal(size=ANALYSES[-1])  # the effect that a seed has on all runs
    runs = {
        name: (mean + shared + rng.normal(size=ANALYSES[-1])) / 100 for name, mean in means.items()
    }
    compared: list[Compared] = []

    def analyse(stood: Sequential, n: int) -> list[Compared]:
        values = {name: dict(enumerate(own[:n])) for name, own in runs.items()}
        compared[:] = family(values, declared(SYSTEMS, NULLS), len(ANALYSES))
        return compared

    return add_seeds(Sequential(resolve, ANALYSES), analyse, lambda _: None), compared


@pytest.fixture(scope="module")
def alike() -> list[tuple[Sequential, list[Compared]]]:
    """Simulate studies without differences; a difference of two points is to be resolved."""
    return simulated(ALIKE, 2.0, STUDIES)


@pytest.mark.slow
def test_studies_without_differences_find_one_in_at_most_5_percent(alike):
    false = sum(any(c.resolved for c in compared) for _, compared in alike)
    assert false <= 0.05 * len(alike)
    assert len({left.taken for left, _ in alike}) > 2, "otherwise the rule was not put to the test"


@pytest.mark.slow
def test_intervals_cover_the_truth_in_95_percent_whichever_analysis_was_last(alike):
    differences = [compared[0].difference for _, compared in alike]
    holds = sum(d.low <= 0 <= d.high for d in differences)
    assert stats.binomtest(holds, len(alike), 0.95, alternative="less").pvalue > 0.05


@pytest.mark.slow
def test_stopping_at_the_first_small_p_triples_the_false_positives():
    """A single comparison without any difference, tested after each seed from 3 to 20."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(STUDIES):
        runs = rng.normal(size=ANALYSES[-1])
        after = range(ANALYSES[0], ANALYSES[-1] + 1)
        alarms += any(paired_difference(runs[:n], np.zeros(n)).p_value < 0.05 for n in after)
    assert alarms > 0.15 * STUDIES


def test_real_differences_are_found_with_the_right_sign():
    studies = simulated({**ALIKE, "a": 2.0, "b": -2.0}, 0.5, 100)
    directions = [
        c.difference.mean > 0
        for _, compared in studies
        for c in compared
        if (c.entry, c.reference) == ("a", "b") and c.resolved
    ]
    assert len(directions) > 95
    assert all(directions)


def test_larger_differences_need_fewer_seeds():
    steps = {"a": 6.0, "b": 4.0, "c": 2.0, "dense": 0.0, "random": -2.0}
    taken = [
        np.mean([left.taken for left, _ in simulated(_times(steps, scale), 0.01, 60)])
        for scale in (0.1, 1.0, 100.0)
    ]
    assert taken[0] == ANALYSES[-1], "differences this small stay unresolved"
    assert taken[0] > taken[1] > taken[2] == ANALYSES[0]


def _times(means: Mapping[str, float], scale: float) -> dict[str, float]:
    return {name: scale * mean for name, mean in means.items()}


def test_stopping_during_an_analysis_leaves_the_state_unchanged():
    asked = Sequential(0.5, (3, 6))
    assert add_seeds(asked, lambda *_: None, pytest.fail) == asked


def test_each_analysis_is_reported_and_recorded():
    messages: list[str] = []
    # With three seeds p = 0.22; with six p = 0.013, and three times that is below 0.05.
    runs = {"a": [0.5, 0.55, 0.6, 0.55, 0.551, 0.549], "b": [0.5] * 6}

    stages: list[int] = []

    def analyse(stood: Sequential, n: int) -> list[Compared]:
        stages.append(stood.taken)
        values = {name: dict(enumerate(own[:n])) for name, own in runs.items()}
        return family(values, [("a", "b"), ("a", "never trained")], 3)

    left = add_seeds(Sequential(0.5, (3, 6, 12)), analyse, messages.append)
    assert messages == [
        "3 seeds: 0 of 1 differences decided; on to 6 seeds",
        "6 seeds: 1 of 1 differences decided; that is all",
    ]
    assert stages == [0, 3], "during an analysis, the one before it is on record"
    assert left.record() == {
        "resolve": 0.5,
        "looks": 3,
        "seeds": [3, 6, 12],
        "taken": 6,
        "compared": 1,
        "decided": 1,
    }


def test_the_next_analysis_follows_from_the_record_of_the_last():
    asked = Sequential(0.5, (3, 6, 12))
    reached = replace(asked, taken=3, compared=2, decided=1)
    assert asked.going_on({}) == asked
    assert asked.going_on(reached.record()) == reached
    assert (asked.next, reached.next) == (3, 6)
    assert replace(reached, decided=2).next == 3, "it is over"
    other = replace(asked, resolve=1.0)
    assert other.going_on(reached.record()) == other, "what was decided depends on the gap"


def test_at_the_limit_unresolved_comparisons_are_reported():
    messages: list[str] = []
    same = {0: 0.5, 1: 0.6, 2: 0.7}
    other = {0: 0.6, 1: 0.5, 2: 0.75}
    left = add_seeds(
        Sequential(0.5, (3,)),
        lambda *_: family({"a": same, "b": other}, [("a", "b")]),
        messages.append,
    )
    assert messages == ["3 seeds: 0 of 1 differences decided; this is the limit"]
    assert left.over


@pytest.mark.parametrize(
    ("seeds", "most", "planned_seeds"),
    [(1, 20, (3, 6, 12, 20)), (5, 20, (5, 10, 20)), (3, 3, (3,))],
)
def test_the_first_analysis_has_the_presets_seeds_but_at_least_three(seeds, most, planned_seeds):
    preset = load_preset("smoke").model_copy(update={"seeds": seeds})
    assert plan_analyses(preset, ["accuracy"], 0.5, most).seeds == planned_seeds


@pytest.mark.parametrize(
    ("routers", "suites", "most", "message"),
    [
        (
            ("dense", "soft_moe"),
            ("accuracy",),
            2,
            "--max-seeds 2 is below the first interim analysis",
        ),
        (("dense", "soft_moe"), ("balance",), 20, "the suite 'accuracy' is not requested"),
        (
            ("soft_moe",),
            ("accuracy",),
            20,
            "'soft_moe' is the only one.*such as 'dense'",
        ),
        (("dense",), ("accuracy",), 20, "'dense' is the only one; add another, such as a router"),
        (("dense", "random"), ("accuracy",), 20, "dense, random are nulls; add a router"),
    ],
)
def test_a_request_that_cannot_be_decided_is_refused(routers, suites, most, message):
    preset = make_request(load_preset("smoke"), routers=routers, seeds=3).preset
    with pytest.raises(RequestError, match=message):
        plan_analyses(preset, suites, 0.5, most)


def test_analyses_are_planned_once():
    first = Sequential(0.5, (3, 6))
    refuse_other_analyses("s", first, {})
    refuse_other_analyses("s", first, {"preset": {}})
    refuse_other_analyses("s", Sequential(2.0, (3, 6)), {"sequential": first.record()})
    with pytest.raises(RequestError, match=r"planned at 3, 6 seeds; to analyse at 3, 6, 12 "):
        refuse_other_analyses("s", Sequential(0.5, (3, 6, 12)), {"sequential": first.record()})
