from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import mutual_info_score

from suites.support.information import entropy_bits, mutual_information_bits

TABLES = arrays(
    np.int64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 50)
).filter(np.any)


@given(
    arrays(np.float64, st.integers(1, 9), elements=st.floats(0, 10)).filter(lambda m: m.sum() > 0.1)
)
def test_entropy_is_that_of_scipy_and_within_its_bounds(masses):
    got = float(entropy_bits(torch.tensor(masses)))
    assert got == pytest.approx(stats.entropy(masses, base=2), abs=1e-9)
    assert -1e-12 <= got <= math.log2(len(masses)) + 1e-9


@given(TABLES)
def test_mutual_information_is_that_of_scikit_learn(table):
    got = float(mutual_information_bits(torch.tensor(table, dtype=torch.double)))
    nats = mutual_info_score(None, None, contingency=table)
    assert got == pytest.approx(nats / math.log(2), abs=1e-9)


@given(TABLES, st.data())
def test_mutual_information_is_bounded_symmetric_and_blind_to_numbering(table, data):
    joint = torch.tensor(table, dtype=torch.double)
    got = float(mutual_information_bits(joint))
    most = min(float(entropy_bits(joint.sum(0))), float(entropy_bits(joint.sum(1))))
    assert -1e-9 <= got <= most + 1e-9
    rows = data.draw(st.permutations(range(len(table))))
    assert float(mutual_information_bits(joint[rows])) == pytest.approx(got, abs=1e-9)
    assert float(mutual_information_bits(joint.T)) == pytest.approx(got, abs=1e-9)


def test_many_tables_can_be_computed_at_once():
    tables = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert mutual_information_bits(tables).tolist() == [1.0, 0.0]
