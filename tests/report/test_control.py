"""A/A replicates are controls: their table shows the effect of chance; they never compete."""

from __future__ import annotations

import pytest

from report.comparisons import comparisons
from report.conditions import Entry, System
from report.study import load_study
from report.summary import remarks
from report.table import Absent, Table
from report.timings import timings
from report.topics import control, make_tables, trials
from report.topics.control import controls, retimed
from report.write import write_report

ROUTERS = {
    "dense": [0.80, 0.81, 0.82, 0.80],
    "soft_moe": [0.86, 0.87, 0.89, 0.88],
    "softmax_token_choice": [0.83, 0.84, 0.84, 0.85],
}
REPLICATES = {
    # 1, -1, 1 and -1 points: no difference; 2 points each with hardly any spread: an alarm.
    "soft_moe": [0.87, 0.86, 0.90, 0.87],
    "softmax_token_choice": [0.85, 0.86, 0.8601, 0.87],
}
SWEPT = ({"capacity_factor": 1.0}, {"capacity_factor": 2.0})


@pytest.fixture
def study(lab, store):
    lab(suites=("accuracy", "throughput")).study_of(ROUTERS)
    lab(suites=("accuracy", "throughput"), aa_replicate=1).study_of(REPLICATES)
    return load_study(store, "tiny")


def test_a_replicate_appears_only_in_the_control_table(study):
    assert study.systems == [System(n) for n in ("dense", "softmax_token_choice", "soft_moe")]
    assert {entry.system for entry in study.entries} == set(study.systems)
    assert control.replicates(study) == {
        Entry(System(name)): Entry(System(name), aa_replicate=1)
        for name in ("softmax_token_choice", "soft_moe")
    }
    compared = {e.system for c in comparisons(study) for e in (c.entry, c.reference)}
    assert compared == set(study.systems)
    assert not any(timing.entry.aa_replicate for timing in timings(study))
    for table in make_tables(study):
        if isinstance(table, Table) and table.name not in ("trials", "layers", "failures"):
            named = [cell.words for row in table.rows for cell in row.cells]
            assert not [text for text in named if "(twin)" in text], table.name


def test_a_failed_replicate_is_reported(lab, store):
    lab().study_of(ROUTERS)
    lab(aa_replicate=1).study_of({"soft_moe": [0.86, None, 0.88, 0.87]})
    failures = trials.failures(load_study(store, "tiny"))
    assert [row.cells[0].words for row in failures.rows] == ["soft_moe (twin)"]


def test_differences_alarms_and_noise_floor_match_values_computed_by_hand(study):
    table = control.table(study)
    assert [row.cells[0].words for row in table.rows] == ["softmax_token_choice", "soft_moe", "all"]
    alarmed, quiet = table.rows[0], table.rows[1]
    assert table.cell(1, "difference").value == pytest.approx(0)
    assert table.cell(1, "p").value == pytest.approx(1)
    # Root mean square 1 point, times t(4) = 2.776, over the square root of 4 pairs.
    assert table.cell(1, "floor").value == pytest.approx(0.01 * 2.776445 / 2)
    assert table.cell(0, "difference").value == pytest.approx(0.020025)
    assert table.cell(0, "p").value < 0.05
    assert (table.cell(0, "alarm").words, table.cell(1, "alarm").words) == ("yes", "no")
    assert (alarmed.n, quiet.n) == (4, 4)
    rate = table.cell(2, "alarm")
    assert (rate.value, rate.n) == (0.5, 2)
    assert (rate.low, rate.high) == (
        pytest.approx(0.0126, abs=1e-4),
        pytest.approx(0.9874, abs=1e-4),
    )
    # Mean square (4 · 1² + 3 · 2² + 2.01²) / 8 in points squared, t(8) = 2.306.
    pooled = (20.0401 / 8) ** 0.5 / 100
    assert table.cell(2, "floor").value == pytest.approx(pooled * 2.306004 / 2, rel=1e-3)


def test_each_number_knows_the_trials_of_router_and_replicate(study):
    cell = control.table(study).cell(1, "difference")
    shown = study.trials.set_index("trial")["entry"]
    runs = [Entry(System("soft_moe"), aa_replicate=replicate) for replicate in (1, 0)]
    assert [shown[trial] for trial in cell.trials] == [runs[0]] * 4 + [runs[1]] * 4


def test_the_summary_states_the_alarm_rate_and_the_noise(study):
    summary = " ".join(remarks(study))
    assert "of 2 tests of a router against itself 1 raised a false alarm, 50 %" in summary
    assert (
        "(95 % interval 1 to 99 %); the noise floor of means of 4 seeds is ± 1.82 points."
        in summary
    )
    assert "timed in two processes" in summary


def test_replicates_are_controls_under_every_condition(lab, store):
    lab().study_of(ROUTERS, SWEPT)
    lab(aa_replicate=1).study_of(REPLICATES, SWEPT)
    study = load_study(store, "tiny")
    assert [entry.condition.label for entry in control.replicates(study)] == [
        *["router.capacity_factor=1.0"] * 2,
        *["router.capacity_factor=2.0"] * 2,
    ]
    assert [len(each.differences) for each in controls(study)] == [4] * 4


def test_only_seeds_that_both_have_are_paired(lab, store):
    lab().study_of({"soft_moe": [0.86, None, 0.88]})
    lab(aa_replicate=1).study_of({"soft_moe": [0.87, 0.9, None]})
    study = load_study(store, "tiny")
    (control_of_both,) = controls(study)
    assert control_of_both.differences == pytest.approx([0.01])
    assert control_of_both.difference.p_value is None
    table = control.table(study)
    assert [row.cells[0].words for row in table.rows] == ["soft_moe", "all"]
    assert table.cell(0, "floor").value == pytest.approx(0.01 * 12.7062)


def test_replicates_with_other_experts_are_found_and_do_not_split_systems(lab, store):
    for number in (0, 1):
        lab(aa_replicate=number).study_of({"soft_moe": [0.86, 0.87], "random": [0.8, 0.8]})
        lab(aa_replicate=number, experts={"name": "cp", "num_experts": 64}).study_of(
            {"my_gate": [0.9, 0.9]}
        )
    replicates = control.replicates(load_study(store, "tiny"))
    assert {entry.label: replicate.label for entry, replicate in replicates.items()} == {
        "random": "random (twin)",
        "soft_moe": "soft_moe (twin)",
        "my_gate + 64 cp": "my_gate + 64 cp (twin)",
    }


def test_timings_of_router_and_replicate_are_compared_at_each_setting(lab, store):
    lab(suites=("throughput",)).layer("soft_moe", {}, 0)
    lab(suites=("throughput",), aa_replicate=1).layer("soft_moe", {}, 1)
    study = load_study(store, "tiny")
    pairs = retimed(study)
    assert len(pairs) == len(timings(study)) == 3
    ours, theirs = (pairs[0].router.values["forward_ms"], pairs[0].replicate.values["forward_ms"])
    assert pairs[0].ratio("forward_ms") == pytest.approx(theirs / ours)
    table = control.table(study)
    assert [row.cells[0].words for row in table.rows] == ["soft_moe"]
    assert table.cell(0, "forward_ms").value == pytest.approx(theirs / ours)
    shown = study.measurements.set_index("trial")["entry"]
    assert [shown[layer].label for layer in table.cell(0, "forward_ms").trials] == [
        "soft_moe (twin)",
        "soft_moe",
    ]
    (sentence,) = control.sentences(study)
    assert "median of 3 forward times" in sentence


def test_without_replicates_the_table_says_how_to_get_them(lab, store):
    lab().study_of(ROUTERS)
    study = load_study(store, "tiny")
    table = control.table(study)
    assert isinstance(table, Absent)
    assert "--aa" in table.why
    assert control.sentences(study) == []


@pytest.mark.slow
def test_the_written_report_shows_the_control(lab, store, tmp_path):
    lab().study_of(ROUTERS)
    lab(aa_replicate=1).study_of(REPLICATES)
    paths = write_report(store, "tiny", tmp_path / "report")
    for text in (paths.markdown.read_text(), paths.index_html.read_text()):
        assert "A/A control: each router against itself" in text
        assert "of 2 tests of a router against itself" in text
    assert (tmp_path / "report" / "tables" / "control.csv").exists()
