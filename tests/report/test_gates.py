"""Whether the entropy of gates has moved from its start, on known values."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest

from report.study import load_study
from report.summary import remarks
from report.table import Absent, Table
from report.topics import gates
from results import Array, Metric

ENDS = {  # by layer, at the start and at the end, out of log2 8 = 3 bits
    "soft_moe": ([2.99, 2.97], [2.95, 2.83]),  # the second layer by 0.14 bits, 4.7 %
    "softmax_token_choice": ([2.5, 2.5], [2.66, 2.34]),  # by 0.16 bits, 5.3 %, either way
    "random": ([0.0, 0.0], [0.0, 0.0]),
    "frozen": ([2.5, 2.5], [2.5, 2.22]),  # by 0.28 bits, 9.3 %, because the tokens change
}
TOP1: dict[str, list[float | None]] = {name: [0.5, 0.52] for name in ENDS if name != "frozen"}


def entropies(router: str, rng: np.random.Generator) -> tuple[list[Metric], list[Array]]:
    """Return H_s at both ends; seeds differ by the same amount at both."""
    shift = 0.01 * float(rng.uniform())
    metrics = []
    for step, values in zip((0, None), ENDS[router], strict=True):
        for layer, value in (*enumerate(values), (None, fmean(values))):
            where = {"of": "gates", "kind": "soft"}
            metrics.append(Metric("H_s", value + shift, layer, step, "test", where))
            # What the router did is not what it wanted.
            metrics.append(Metric("H_s", 0.5, layer, step, "test", where | {"of": "combine"}))
    return metrics, []


@pytest.fixture
def study(lab, store):
    def make(ends=entropies, top1=TOP1):
        lab(suites=("accuracy", "entropy"), entropies=ends).study_of(top1)
        return load_study(store)

    return make


def test_a_gate_has_hardly_moved_only_if_no_layer_has(study):
    data = study()
    table = gates.table(data)
    assert isinstance(table, Table)
    keys = [column.key for column in table.columns]
    by_router = {row.cells[0].words: dict(zip(keys, row.cells, strict=True)) for row in table.rows}
    soft, sparse, null = (by_router[name] for name in TOP1)
    assert soft["start"].value - soft["end"].value == pytest.approx(0.09)
    assert (soft["start"].n, soft["change"].value) == (2, pytest.approx(-0.09))
    assert soft["largest"].value == pytest.approx(0.14 / 3)
    assert sparse["change"].value == pytest.approx(0)  # the layers' changes cancel out
    assert sparse["largest"].value == pytest.approx(0.16 / 3)
    verdicts = [cells["gate"].words for cells in (soft, sparse, null)]
    assert verdicts == ["hardly moved", "moved", "null model"]


def test_a_gate_that_moved_no_further_than_an_untrained_one_is_flagged(study):
    data = study(top1=TOP1 | {"frozen": [0.5, 0.52]})
    table = gates.table(data)
    verdicts = {row.cells[0].words: row.cells[-1].words for row in table.rows}
    assert verdicts == {
        "soft_moe": "hardly moved",
        "softmax_token_choice": "no further than frozen",
        "random": "null model",
        "frozen": "null model",
    }
    assert "softmax_token_choice, soft_moe." in gates.sentence(data)


def test_a_gate_that_hardly_moved_is_named_in_the_summary(study):
    data = study()
    (sentence,) = [text for text in remarks(data) if "hardly moved" in text]
    assert "that of frozen): soft_moe. They may have learned little" in sentence


def test_nothing_is_said_if_the_start_was_not_measured(study):
    data = study(ends=None)
    part = gates.table(data)
    assert isinstance(part, Absent)
    assert "before its first step" in part.why
    assert gates.sentence(data) == ""
