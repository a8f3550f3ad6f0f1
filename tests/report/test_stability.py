"""Agreement between seeds in the report, for routings whose agreement is known."""

from __future__ import annotations

import numpy as np
import pytest

from report.study import load_study
from report.table import Absent
from report.topics import stability
from results import Array, Metric

EXPERTS, TOKENS = 4, 400


@pytest.fixture
def kept(lab, store):
    """Store the samples of a router's seeds: `kept("soft_moe", [choices, …])`."""
    made = lab(suites=("accuracy", "stability"))

    def keep(router, choices):
        made.study_of({router: [0.8] * len(choices)})
        trials = load_study(store).trials
        own = trials[trials["router"] == router].sort_values("seed")
        for attempt, first in zip(own["attempt"], choices, strict=True):
            shares = np.eye(1 + EXPERTS, dtype=np.float16)[first + 1]
            arrays = [
                Array(name, values, layer, split="test")
                for layer in (0, 1)
                for name, values in (("sampled_shares", shares), ("sampled_first", first))
            ]
            origin = ("stability", {}, "s", made.machine_ids[0], made.code)
            metrics = [Metric("share_agreement", 1.0, split="test")]
            made_of = {"attempt_id": int(attempt), "arrays": arrays, "metrics": metrics}
            store.record_measurement(*origin, **made_of)

    return keep


def cells(store):
    made = stability.table(load_study(store))
    assert not isinstance(made, Absent), made.why
    keys = [column.key for column in made.columns]
    return {row.entry.label: dict(zip(keys, row.cells, strict=True)) for row in made.rows}


def test_seeds_with_permuted_experts_agree_and_independent_ones_do_not(kept, store):
    generator = np.random.default_rng(0)
    one = generator.integers(EXPERTS, size=TOKENS)
    kept("soft_moe", [one, (one + 1) % EXPERTS, (3 - one)])
    kept("random", list(generator.integers(EXPERTS, size=(3, TOKENS))))
    by_router = cells(store)
    alike, apart = by_router["soft_moe"], by_router["random"]
    assert [alike[key].value for key in ("matched", "adjusted", "rand")] == [1, 1, 1]
    assert [alike[key].value for key in ("pairs", "lowest", "highest")] == [3, 1, 1]
    assert abs(apart["adjusted"].value) < 0.05
    assert abs(apart["rand"].value) < 0.02
    assert apart["matched"].value == pytest.approx(apart["chance"].value, abs=0.03)
    assert apart["lowest"].value <= apart["adjusted"].value <= apart["highest"].value
    assert len(alike["adjusted"].trials) == 3


def test_a_routing_to_a_single_expert_has_no_agreement_beyond_chance(kept, store):
    kept("random", [np.zeros(TOKENS, int), np.ones(TOKENS, int)])
    assert "adjusted" not in cells(store)["random"]
    assert cells(store)["random"]["matched"].value == 1


def test_the_report_says_that_one_seed_is_too_few(kept, store):
    kept("soft_moe", [np.zeros(TOKENS, int)])
    absent = stability.table(load_study(store))
    assert isinstance(absent, Absent)
    assert "--seeds 2" in absent.why


def test_a_study_that_did_not_request_the_suite_misses_nothing(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8]})
    absent = stability.table(load_study(store))
    assert absent.fine
