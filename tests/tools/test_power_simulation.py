"""The error rates and power published in docs/statistics.md, repeated on a smaller scale."""

from __future__ import annotations

import importlib.util
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from results.statistics.comparisons import declared, family

ROOT = Path(__file__).parents[2]
STUDIES = 200


def loaded():
    """The script, which belongs to no package."""
    spec = importlib.util.spec_from_file_location(
        "power_simulation", ROOT / "tools" / "power_simulation.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


power_simulation = loaded()
SIZES = [(n, k) for n in power_simulation.SEEDS for k in power_simulation.SYSTEMS]


def most(share, times=STUDIES):
    """Return the count that a binomial exceeds only once in ten thousand."""
    return binom(times, share).ppf(0.9999)


def test_the_script_compares_as_reports_do():
    """They agree in every study, including failed runs and nulls."""
    drawn = power_simulation.failed(power_simulation.EQUAL)(np.random.default_rng(0), 5, 7, 4)
    pairs = power_simulation.compared(drawn, nulls=2)
    for place, study in enumerate(drawn):
        values = {
            system: {seed: value for seed, value in enumerate(row) if np.isfinite(value)}
            for system, row in enumerate(study)
        }
        made = {(c.entry, c.reference): c for c in family(values, declared(range(5), (5, 6)))}
        ordered = [made[pair] for pair in combinations(range(7), 2) if pair[0] < 5]
        assert [c.difference.mean for c in ordered] == pytest.approx(pairs.means[place])
        halves = [(c.difference.high - c.difference.low) / 2 for c in ordered]
        assert halves == pytest.approx(pairs.halves()[place])


def test_the_earlier_holm_procedure_is_that_of_the_claims():
    from results.statistics.comparisons import holm
    from results.statistics.means import paired_difference

    study = np.random.default_rng(1).normal(size=(4, 5)) + np.array([0, 0.5, 3, 6])[:, None]
    p_values = [paired_difference(study[i], study[j]).p_value for i, j in combinations(range(4), 2)]
    means, errors = power_simulation.separate(study[None])
    resolved = power_simulation.resolved_by_holm(means, errors, 4)[0]
    assert list(resolved) == [p < 0.05 for p in holm(p_values)]
    assert 0 < resolved.sum() < 6


@pytest.mark.slow
@pytest.mark.parametrize("case", power_simulation.CASES, ids=lambda case: case.name)
def test_false_alarms_and_coverage_stay_within_their_limits(case):
    cells = [power_simulation.errors(case, *size, STUDIES) for size in SIZES]
    alarms = [cell.alarms * STUDIES for cell in cells]
    assert max(alarms) <= most(case.limit)
    assert sum(alarms) <= most(case.limit, STUDIES * len(SIZES))
    assert min(cell.coverage for cell in cells) >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("routers", [1, 2, 6])
@pytest.mark.parametrize("case", power_simulation.CASES, ids=lambda case: case.name)
def test_families_with_nulls_stay_within_the_limits_too(case, routers):
    for seeds in (3, 5):
        errors = power_simulation.errors(case, seeds, routers + 4, STUDIES, nulls=4)
        assert errors.alarms * STUDIES <= most(case.limit)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "gap"), [(3, 3.0), (5, 2.0)])
def test_a_gap_missed_by_the_earlier_method_is_resolved(seeds, gap):
    """With ten systems. Comparisons within a study are not independent: 200 tests count."""
    drawn = power_simulation.EQUAL(np.random.default_rng(seeds), STUDIES, 10, seeds)
    assert power_simulation.power_at(drawn, gap) * STUDIES >= binom(STUDIES, 0.8).ppf(0.0001)
    assert power_simulation.power_before(drawn, gap) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("variances", [(1, 1, 1, 1), (8, 1, 1, 1), (8, 8, 1, 1)])
def test_other_conditions_raise_no_false_alarms(variances):
    limit = 0.05 if len(set(variances)) == 1 else 0.075
    for seeds, systems in SIZES:
        share = power_simulation.over_conditions(variances, seeds, systems, STUDIES)
        assert share * STUDIES <= most(limit)


@pytest.mark.slow
@pytest.mark.parametrize("case", power_simulation.CASES[:5], ids=lambda case: case.name)
def test_interim_analyses_together_raise_no_false_alarms(case):
    for systems in power_simulation.SYSTEMS:
        share = power_simulation.over_analyses(case, 20, systems, STUDIES)
        assert share * STUDIES <= most(case.limit)


@pytest.mark.slow
def test_a_pooled_variance_would_exceed_the_limit(monkeypatch):
    """This shows that these tests can fail: Tukey's textbook test uses the pooled variance."""
    from results.statistics import blocks

    monkeypatch.setattr(blocks, "_share", lambda ratios, _: np.zeros(ratios.shape[:-1]))
    monkeypatch.setattr(blocks, "STANDS_OUT", 0.0)
    case = power_simulation.CASES[2]
    errors = power_simulation.errors(case, 3, 20, STUDIES)
    assert errors.alarms * STUDIES > most(case.limit)
