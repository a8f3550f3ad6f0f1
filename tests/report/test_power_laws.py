"""Power laws in the report: of trials whose error follows one, and of trials that do not."""

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
    """A study of a capacity sweep: soft_moe follows a law, random has an error of its own."""
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


def test_the_exponent_of_a_known_law_is_in_its_interval(swept):
    row = rows_of(swept)["soft_moe", "error"]
    assert row["exponent"].low < -0.25 < row["exponent"].high
    assert row["exponent"].value == pytest.approx(-0.25, abs=0.02)
    assert row["lack_of_fit"].value > 0.05
    assert (row["against"].words, row["verdict"].words) == ("slots of an image", "fits")
    assert (row["places"].value, len(row["exponent"].trials)) == (4, 12)


def test_where_none_fits_the_table_says_so_in_words(swept):
    rows = rows_of(swept)
    error, size = rows["random", "error"], rows["random", "bytes of weights"]
    assert error["verdict"].words.startswith("no power law fits: the means leave the line")
    assert size["verdict"].words == "no trend: it is the same everywhere"


def test_the_figure_draws_the_law_and_joins_the_means_of_what_has_none(swept):
    (drawing,) = scaling.draw(swept)
    assert not isinstance(drawing, Absent), drawing.why
    error, loss = drawing.figure.axes
    assert (error.get_xlabel(), loss.get_ylabel()) == ("slots of an image", "loss (nat)")
    by_ending = [list(line.get_ydata()) for line in error.lines if len(line.get_xdata()) == 4]
    assert len(by_ending) == 3  # a law with its means, and means that are joined
    assert error.get_xscale() == error.get_yscale() == "log"


def test_axes_of_a_short_range_have_ticks_to_read_it_by(swept):
    (drawing,) = scaling.draw(swept)
    for axes in drawing.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            assert sum(low <= tick <= high for tick in axis.get_majorticklocs()) >= 3


def test_what_was_not_swept_or_asked_for_lacks_nothing(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8]})
    assert scaling.table(load_study(store)).fine
