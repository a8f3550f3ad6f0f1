"""Power laws in the report, for trials whose error follows one and for trials whose does not."""

from __future__ import annotations

import pytest

from report.study import load_study
from report.table import Absent
from report.topics import scaling
from results import Metric

FACTORS = (1.0, 2.0, 4.0, 8.0)
NOISE = (1.0, 1.02, 0.99)


def metrics(slots, error, flops=1e9):
    values = {"experts": 8, "slots": slots, "training_flops": flops, "error": error}
    made = {**values, "loss": 2 * error, "parameter_bytes": 4e6}
    return [Metric(name, float(value)) for name, value in made.items()]


@pytest.fixture
def swept(lab, store):
    """A study of a capacity sweep: soft_moe follows a law, the error of random does not."""
    made = lab(suites=("accuracy", "scaling"))
    sweep = [{"capacity_factor": factor} for factor in FACTORS]
    made.study_of({"soft_moe": [0.8] * 3, "random": [0.7] * 3}, sweep)
    for row in load_study(store).trials.itertuples():
        factor = float(row.entry.condition.mapping["router.capacity_factor"])
        wobble = NOISE[(row.seed + FACTORS.index(factor)) % 3]
        law = 0.3 * factor**-0.25 * wobble
        error = law if row.router == "soft_moe" else 0.2 + 0.1 * (factor == 2.0) * wobble
        origin = ("scaling", {}, "s", made.machine_ids[0], made.code)
        own = metrics(64 * factor, error)
        store.record_measurement(*origin, attempt_id=int(row.attempt), metrics=own)
    return load_study(store)


def rows_of(study):
    made = scaling.table(study)
    assert not isinstance(made, Absent), made.why
    keys = [column.key for column in made.columns]
    rows = [dict(zip(keys, row.cells, strict=True)) for row in made.rows]
    return {(r["router"].words, r["of"].words): r for r in rows}


def test_the_interval_contains_the_exponent_of_a_known_law(swept):
    row = rows_of(swept)["soft_moe", "error"]
    assert row["exponent"].low < -0.25 < row["exponent"].high
    assert row["exponent"].value == pytest.approx(-0.25, abs=0.02)
    assert row["lack_of_fit"].value > 0.05
    assert (row["against"].words, row["verdict"].words) == ("slots of an image", "fits")
    assert (row["places"].value, len(row["exponent"].trials)) == (4, 12)


def test_the_table_says_in_words_if_no_law_fits(swept):
    rows = rows_of(swept)
    error, size = rows["random", "error"], rows["random", "bytes of weights"]
    assert error["verdict"].words.startswith("no power law fits: the means leave the line")
    assert size["verdict"].words == "no trend: it is the same everywhere"


def test_the_figure_draws_a_law_or_else_joins_the_means(swept):
    (drawing,) = scaling.draw(swept)
    assert not isinstance(drawing, Absent), drawing.why
    error, loss = drawing.figure.axes
    assert (error.get_xlabel(), loss.get_ylabel()) == ("slots of an image", "loss (nat)")
    by_ending = [list(line.get_ydata()) for line in error.lines if len(line.get_xdata()) == 4]
    assert len(by_ending) == 3  # a law with its means, and joined means
    assert error.get_xscale() == error.get_yscale() == "log"


def test_axes_with_a_short_range_still_have_readable_ticks(swept):
    (drawing,) = scaling.draw(swept)
    for axes in drawing.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            assert sum(low <= tick <= high for tick in axis.get_majorticklocs()) >= 3


def test_a_study_without_a_sweep_does_not_miss_a_power_law(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8]})
    assert scaling.table(load_study(store)).fine
