"""The numbers in the tables, compared with numbers worked out by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from math import pi, sqrt

import pytest
from scipy.stats import t

from report.comparisons import comparisons
from report.conditions import Entry, System
from report.study import load_study
from report.summary import findings
from report.table import (
    CONSTANT,
    DEPENDENT,
    OUTSIDE,
    TIED,
    Cell,
    Column,
    Row,
    Table,
    assemble,
    summary,
)
from report.timings import timings
from report.topics import accuracy, cost, differences, routing, trials
from results.statistics.largest_t import LargestT

T_2 = 4.302652729911275
"""The 97.5th percentile of Student's t with two degrees of freedom."""


def rows_of(table: Table) -> list[dict[str, Cell]]:
    keys = [column.key for column in table.columns]
    return [dict(zip(keys, row.cells, strict=True)) for row in table.rows]


def row_of(table: Table, router: str) -> dict[str, Cell]:
    return rows_of(table)[[row.entry.label for row in table.rows].index(router)]


def test_means_and_intervals_match_those_worked_out_by_hand(written):
    top1 = row_of(written.tables["main"], "sinkhorn_token_choice")["top1"]
    half = T_2 * 0.01 / sqrt(3)
    assert top1.n == 3
    assert [top1.value, top1.low, top1.high] == pytest.approx([0.84, 0.84 - half, 0.84 + half])


def test_a_row_says_how_many_seeds_it_has(written):
    table = written.tables["main"]
    assert row_of(table, "dense")["n"].words == "3"
    assert row_of(table, "sparsity_constrained_expert_choice")["n"].words == "2 of 3"


def test_a_router_that_never_finished_has_a_row_without_numbers(written):
    row = row_of(written.tables["main"], "my_gate")
    assert row["n"].words == "0 of 3"
    assert row["top1"].value is None
    assert row["forward_overhead"].value == pytest.approx(1.8)


def test_the_best_means_are_marked_whatever_the_direction(written):
    """One router has one seed fewer, and the lead over it is not resolved."""
    table = written.tables["main"]
    for key, marked in (
        ("top1", {"soft_moe", "sparsity_constrained_expert_choice"}),
        ("nll", {"soft_moe", "sparsity_constrained_expert_choice"}),
        ("load_cv", set()),
    ):
        cells = {row.entry.label: row_of(table, row.entry.label)[key] for row in table.rows}
        assert {label for label, cell in cells.items() if TIED in cell.marks} == marked
        assert not any(cell.best for cell in cells.values())


def test_values_that_are_constant_by_construction_are_marked(written):
    table = written.tables["main"]
    assert row_of(table, "soft_moe")["load_cv"].marks == (CONSTANT,)
    assert row_of(table, "random")["load_cv"].marks == ()
    assert [
        [row_of(table, router)[key].marks == (CONSTANT,) for key in ("dropped", "uncovered")]
        for router in ("random", "softmax_expert_choice", "soft_moe")
    ] == [[False, False], [True, False], [True, True]]
    assert any(note.startswith(CONSTANT) for note in table.notes)


def test_values_during_training_and_per_layer_are_not_part_of_the_means(written):
    assert row_of(written.tables["balance"], "random")["load_cv"].value == pytest.approx(0.35)
    by_layer = written.tables["balance_by_layer"]
    values = [
        dict(zip([c.key for c in by_layer.columns], row.cells, strict=True))["load_cv"].value
        for row in by_layer.rows
        if row.entry.label == "random"
    ]
    assert values == pytest.approx([0.3, 0.4])


def test_dense_is_shown_to_have_no_entropy(written):
    assert row_of(written.tables["main"], "dense")["H_s"].words == "n/a"
    assert "dense" not in {row.entry.label for row in written.tables["entropy"].rows}


def test_the_best_run_has_the_highest_validation_accuracy(lab, store):
    made = lab(suites=("accuracy", "entropy"))
    made.study_of({"soft_moe": [0.8, 0.9, 0.7], "random": [0.6, 0.5, 0.55], "dense": [0.7] * 3})
    study = load_study(store)
    table = routing.best_table(study)
    row = row_of(table, "soft_moe")
    assert row["error_best"].value == pytest.approx(0.1)
    assert row["error_best"].n == 1
    assert row["error_mean"].value == pytest.approx(0.2)
    assert row["H_s_best"].value == study.final("H_s", Entry(System("soft_moe")), of="gates")[1]
    assert row_of(table, "random")["error_best"].value == pytest.approx(0.4)
    assert "dense" not in {row.entry.label for row in table.rows}
    # Neither the test split nor an earlier evaluation matters.
    frame = study.metrics.copy()
    last = (frame["metric"] == "val_top1") & (frame["step"] == frame["step"].max())
    frame.loc[last & (frame["seed"] == 2), "value"] = 0.99
    assert routing.best_seed(replace(study, metrics=frame), Entry(System("soft_moe"))) == 2


def test_a_single_seed_has_no_best_run(lab, store):
    lab(suites=("accuracy", "entropy")).study_of({"soft_moe": [0.8]})
    assert "--seeds 2" in routing.best_table(load_study(store)).why


def test_fairness_is_shown_before_and_after_editing(written):
    table = written.tables["editing"]
    row = row_of(table, "soft_moe")
    assert row["subgroup_accuracy_min_before"].value == pytest.approx(0.11)
    assert row["subgroup_accuracy_min_after"].value == pytest.approx(0.7)
    assert row["opportunity_gap_before"].value == pytest.approx(0.7)
    assert row["bias_std_after"].value == pytest.approx(0)
    top1 = [row[f"editing_top1_{edit}"].value for edit in ("before", "after")]
    assert top1 == pytest.approx([0.8, 0.7])
    assert row["edited_experts"].value == pytest.approx(4)
    dense = row_of(table, "dense")
    assert dense["subgroup_accuracy_min_before"].value == pytest.approx(0.11)
    assert dense["subgroup_accuracy_min_after"].words == "n/a"


def test_undefined_values_are_distinguished_from_unmeasured_ones(lab, store):
    study = lab(suites=("accuracy",))
    study.study_of({"soft_moe": [0.8], "my_gate": [None]})
    attempt = store.done_attempt("tiny-soft_moe-0-{}")
    study.measure("balance", "soft_moe", 0, 0.8, attempt.id, 0.0)
    lab(suites=("accuracy",)).trial("random", 0, 0.7, {})
    store.record_measurement(
        "balance", {}, "balance", study.machine_ids[0], study.code,
        attempt_id=store.done_attempt("tiny-random-0-{}").id,
    )  # fmt: skip
    table = accuracy.table(load_study(store))
    shown = {row.entry.label: row_of(table, row.entry.label)["load_cv"].words for row in table.rows}
    assert shown == {"soft_moe": "", "random": "n/a", "my_gate": "–"}


def test_runs_outside_the_tolerance_are_marked(written):
    marked = {
        row.entry.label for row in written.tables["main"].rows if OUTSIDE in row.cells[0].marks
    }
    assert marked == {"soft_moe"}


@pytest.mark.parametrize(("steps", "marked"), [(400, True), (40, False)])
def test_one_step_is_within_the_tolerance(lab, store, steps, marked):
    lab(flops_error={"soft_moe": 0.02}, steps=steps).study_of({"soft_moe": [0.8, 0.9]})
    table = accuracy.table(load_study(store))
    assert (OUTSIDE in table.rows[0].cells[0].marks) is marked


def test_routers_that_depend_on_other_images_in_evaluation_are_marked(lab, store):
    accuracies = {"soft_moe": [0.8, 0.9], "softmax_expert_choice": [0.7, 0.8]}
    lab(dependent=frozenset({"softmax_expert_choice"})).study_of(accuracies)
    table = accuracy.table(load_study(store))
    marked = [row.entry.label for row in table.rows if DEPENDENT in row.cells[0].marks]
    assert marked == ["softmax_expert_choice"]
    assert [note for note in table.notes if "depends on the other images" in note]


def test_paired_differences_to_dense_match_those_worked_out_by_hand(written):
    row = row_of(written.tables["differences_nulls"], "softmax_token_choice")
    # By seed 0.03, 0.03 and 0.02 more; the noise is estimated from all systems.
    difference = row["difference"]
    assert difference.value == pytest.approx(0.08 / 3)
    assert difference.value - difference.low == pytest.approx(difference.high - difference.value)
    compared = next(
        c
        for c in comparisons(written.study)
        if (c.entry.label, c.reference.label) == ("softmax_token_choice", "dense")
    )
    t_value = 0.08 / 3 / (compared.deviation / sqrt(3))
    assert row["p"].value == pytest.approx(2 * t.sf(t_value, compared.degrees))
    critical = LargestT(6, 2).critical(compared.degrees, 0.05)
    assert difference.high - difference.value == pytest.approx(
        critical * compared.deviation / sqrt(3)
    )
    assert row["n"].words == "3"


def test_the_family_contains_all_declared_comparisons(written):
    """Six routers with results, against two nulls and each other: 12 + 15 tests."""
    shown = {name: rows_of(written.tables[f"differences_{name}"]) for name in ("nulls", "best")}
    tested = [
        (row["p"].value, row["p_family"].value)
        for rows in shown.values()
        for row in rows
        if row["p"].value is not None
    ]
    assert len(tested) == 12 + 5
    assert all(raw <= adjusted <= 27 * raw + 1e-9 for raw, adjusted in tested)
    caption = written.tables["differences_nulls"].caption
    assert "27 tests" in caption
    assert re.search(r"share of a system's own estimate is \d+ %", caption)
    assert "falls back" not in caption


def test_identical_differences_are_tested_with_the_noise_of_all_systems(written):
    """0.84, 0.85, 0.86 minus 0.80, 0.81, 0.82: on their own they would seem certain."""
    row = row_of(written.tables["differences_nulls"], "softmax_expert_choice")
    assert row["difference"].value == pytest.approx(0.04)
    assert row["difference"].low < 0.04 < row["difference"].high
    assert 1e-6 < row["p"].value < row["p_family"].value
    assert row["effect_size"].value is None


def test_a_system_with_more_scatter_than_the_others_is_named(lab, store):
    names = ("dense", "random", "softmax_token_choice", "softmax_expert_choice", "soft_moe")
    calm = {name: [0.8 + 0.001 * i, 0.801, 0.802, 0.8, 0.801] for i, name in enumerate(names)}
    lab(suites=("accuracy",)).study_of(calm | {"my_gate": [0.5, 0.9, 0.6, 0.8, 0.7]})
    caption = differences.to_best(load_study(store)).caption
    assert "The scatter of my_gate is larger than chance allows (F test): there the method" in (
        caption
    )


def test_nulls_count_as_routers_if_there_are_few_and_the_caption_says_so(lab, store):
    sentence = "With fewer than three routers the method falls back on the largest |t| of all pairs"
    accuracies = {"dense": [0.7, 0.72, 0.71], "random": [0.6, 0.63, 0.61]}
    lab(suites=("accuracy",)).study_of(accuracies | {"soft_moe": [0.8, 0.81, 0.83]})
    study = load_study(store)
    assert sentence in differences.to_nulls(study).caption
    assert {c.largest for c in comparisons(study)} == {LargestT(3, 0)}


def test_nulls_do_not_count_as_routers_if_there_are_enough(written):
    caption = written.tables["differences_nulls"].caption
    assert "fewer than three routers" not in caption


def test_the_report_explains_resolved_once_and_says_what_decides(written):
    text = written.paths.markdown.read_text(encoding="utf-8")
    assert text.count("Resolved: the two differ") == 1
    assert "Intervals next to means are only a visual aid" in text
    assert "whether two systems differ is decided by p (family)" in text


def test_the_best_is_the_reference_in_whichever_order_a_pair_was_declared(written):
    rows = rows_of(written.tables["differences_best"])
    assert {row["reference"].words for row in rows} == {"soft_moe"}
    row = row_of(written.tables["differences_best"], "softmax_token_choice")
    # By seed 0.03, 0.03 and 0.05 less.
    assert row["difference"].value == pytest.approx(-0.11 / 3)
    assert row["difference"].low < row["difference"].value < row["difference"].high


def test_the_effect_size_of_a_difference_matches_one_worked_out_by_hand(written):
    row = row_of(written.tables["differences_best"], "softmax_token_choice")
    deviation = sqrt((2 * (0.11 / 3 - 0.03) ** 2 + (0.05 - 0.11 / 3) ** 2) / 2)
    # Hedges' correction at two degrees of freedom: Γ(1) / (√1 Γ(1/2)).
    assert row["effect_size"].value == pytest.approx(-0.11 / 3 / deviation / sqrt(pi))
    assert row["superiority"].value == 0.0
    # It wins all nine pairs against dense (0.80, 0.81, 0.82).
    over = row_of(written.tables["differences_nulls"], "softmax_token_choice")
    assert over["superiority"].value == 1.0


def test_a_verdict_follows_the_corrected_p_value(written):
    for row in rows_of(written.tables["differences_nulls"]):
        adjusted = row["p_family"].value
        if adjusted is None:
            assert row["verdict"].words in (
                "no seed in common",
                "no test: all differences are alike",
            )
        elif adjusted >= 0.05:
            assert row["verdict"].words == "not resolved"
        else:
            assert row["verdict"].words == ("higher" if row["difference"].value > 0 else "lower")


def test_each_row_of_the_main_table_shows_its_lead_over_each_null(written):
    table = written.tables["main"]
    row, null = row_of(table, "softmax_token_choice"), row_of(table, "random")
    difference = row["over_dense"]
    assert (
        difference
        == row_of(written.tables["differences_nulls"], "softmax_token_choice")["difference"]
    )
    assert difference.value == pytest.approx(0.08 / 3)
    assert row["over_random"].value == pytest.approx(0.12 / 3)
    assert null["over_dense"] == Cell()
    assert row_of(table, "my_gate")["over_dense"].words == "–"
    assert "Without" not in table.caption
    hint = "Without dense_params, frozen: add them to the preset or in --routers."
    assert hint in written.tables["differences_nulls"].caption


def test_a_router_without_a_swept_setting_is_compared_with_several_nulls(lab, store):
    capacities = [{"capacity_factor": 1.0}, {"capacity_factor": 2.0}]
    made = lab(suites=("accuracy",))
    swept = {"dense": [0.7, 0.72], "random": [0.6, 0.61], "my_gate": [0.7, 0.73]}
    made.study_of(swept, capacities)
    made.study_of({"soft_moe": [0.8, 0.82]})
    table = accuracy.table(load_study(store))
    row = row_of(table, "soft_moe")
    assert row["over_dense"].value == pytest.approx(0.1), "dense has the same runs under both"
    assert row["over_random"].words == "several"
    assert row["over_random"].value is None
    assert any(note.startswith("several: compared under several") for note in table.notes)


def test_a_stopping_rule_widens_intervals_and_raises_p_values(written):
    record = written.study.record
    request = record.request | {"sequential": {"looks": 3, "resolve": 0.5}}
    study = replace(written.study, record=replace(record, request=request))
    table, fixed = differences.to_nulls(study), written.tables["differences_nulls"]
    for ours, theirs in zip(rows_of(table), rows_of(fixed), strict=True):
        if theirs["p"].value is not None:
            assert ours["p"].value == pytest.approx(min(1, 3 * theirs["p"].value))
            assert ours["p_family"].value == pytest.approx(min(1, 3 * theirs["p_family"].value))
            degrees = next(
                c.degrees
                for c in comparisons(study)
                if (c.entry.label, c.reference.label)
                == (ours["router"].words, ours["reference"].words)
            )
            widths = [row["difference"].high - row["difference"].low for row in (ours, theirs)]
            critical = [LargestT(6, 2).critical(degrees, alpha) for alpha in (0.05 / 3, 0.05)]
            assert widths[0] / widths[1] == pytest.approx(critical[0] / critical[1])
    mean = row_of(accuracy.table(study), "sinkhorn_token_choice")["top1"]
    assert mean.high - mean.low == pytest.approx(2 * t.ppf(1 - 0.05 / 6, 2) * 0.01 / sqrt(3))
    assert "3 interim analyses planned" in table.caption
    (first,) = findings(study)
    mean = row_of(accuracy.table(study), first.system.label)["top1"]
    assert first.accuracy == f"87.3 ± {50 * (mean.high - mean.low):.1f} % (n = 3)"
    corrected = zip(
        *(rows_of(differences.seeds_table(each)) for each in (written.study, study)), strict=True
    )
    seeds = [(ours["family"].words, theirs["family"].words) for ours, theirs in corrected]
    counted = [(int(a), int(b)) for a, b in seeds if a.isdecimal() and b.isdecimal()]
    assert counted
    assert all(alone < with_analyses for alone, with_analyses in counted)
    assert "and 3 interim analyses" in differences.seeds_table(study).caption
    assert "3 interim analyses planned" in accuracy.table(study).caption
    assert "3 interim analyses planned" in next(accuracy.draw(study)).caption


@pytest.mark.parametrize(("points", "small"), [(0.5, False), (50, True)])
def test_a_difference_below_the_requested_resolution_is_called_that(written, points, small):
    record = written.study.record
    request = record.request | {"sequential": {"looks": 1, "resolve": points}}
    study = replace(written.study, record=replace(record, request=request))
    shown = differences.to_best(study), differences.to_best(written.study)
    pairs = zip(*map(rows_of, shown), strict=True)
    verdicts = [(ours["verdict"].words, fixed["verdict"].words) for ours, fixed in pairs]
    assert any(fixed == "not resolved" for _, fixed in verdicts)
    for ours, fixed in verdicts:
        is_small = small and fixed == "not resolved"
        assert ours == ("smaller than 50 points" if is_small else fixed)
    assert f"smaller than {points} points: its interval lies within" in shown[0].caption


def test_the_table_gives_the_number_of_seeds_that_would_resolve_a_gap(written):
    table = written.tables["seeds"]
    names = [(row["router"].words, row["reference"].words) for row in rows_of(table)]
    assert names[0] == ("soft_moe", "sparsity_constrained_expert_choice")
    assert len(names) == 5
    row = rows_of(table)[2]
    assert row["router"].words == "softmax_expert_choice"
    # By seed 0, 0.01 and 0 apart: d_z = 0.577 takes 26 pairs (G*Power: 25.6).
    assert row["gap"].value == pytest.approx(0.01 / 3)
    assert row["alone"].words == "26"
    assert int(row["family"].words) > 26


def test_with_one_seed_nothing_is_resolved(lab, store):
    lab().study_of({"dense": [0.8], "soft_moe": [0.9]})
    table = differences.to_nulls(load_study(store))
    assert row_of(table, "soft_moe")["verdict"].words == "n = 1 is too small for a test"
    assert "nothing here is resolved" in table.caption


def test_a_router_is_compared_with_dense_under_each_condition(lab, store):
    capacities = [{"capacity_factor": 2.0}, {"capacity_factor": 10.0}]
    lab().study_of({"dense": [0.8, 0.81], "soft_moe": [0.82, 0.84]}, capacities)
    table = differences.to_nulls(load_study(store))
    shown = {row["condition"].words: row["difference"].value for row in rows_of(table)}
    assert list(shown) == ["router.capacity_factor=2.0", "router.capacity_factor=10.0"]
    assert list(shown.values()) == pytest.approx([0.025, 0.035])


def test_timings_are_never_pooled_over_machines(lab, store):
    lab(machines=("node-1", "node-2")).study_of({"soft_moe": [0.8]})
    table = cost.table(load_study(store))
    keys = [column.key for column in table.columns]
    rows = [dict(zip(keys, row.cells, strict=True)) for row in table.rows]
    shown = {(r["machine"].words, r["what"].words): r["forward_ms"].value for r in rows}
    assert len(shown) == len(rows) == 6
    assert shown["node-1", "layer, shape B"] == pytest.approx(17)
    assert shown["node-2", "layer, shape B"] == pytest.approx(27)


def test_machines_with_the_same_name_are_distinguished(lab, store):
    lab(machines=("node-1", "node-1")).study_of({"soft_moe": [0.8]})
    names = {timing.setting.machine for timing in timings(load_study(store))}
    assert len(names) == 2
    assert all(name.startswith("node-1 ") for name in names)


def test_a_failure_has_a_row_with_the_first_line_of_its_reason(written):
    table = written.tables["failures"]
    assert [row.entry.label for row in table.rows] == [
        "sparsity_constrained_expert_choice",
        "my_gate",
        "my_gate",
        "my_gate",
    ]
    row = row_of(table, "my_gate")
    assert row["reason"].words == "loss is not finite at step 17"
    assert row["status"].words == "diverged"


def test_failed_measurements_and_waiting_trials_have_rows_too(lab, store):
    study = lab(suites=("accuracy",))
    study.study_of({"soft_moe": [0.8]})
    attempt = store.done_attempt("tiny-soft_moe-0-{}")
    store.record_measurement(
        "entropy",
        {},
        "entropy",
        study.machine_ids[0],
        study.code,
        attempt_id=attempt.id,
        status="failed",
        error="ValueError: no\nTraceback …",
    )
    study.waiting("soft_moe", 1)
    table = trials.failures(load_study(store))
    keys = [column.key for column in table.columns]
    rows = [dict(zip(keys, row.cells, strict=True)) for row in table.rows]
    assert {(r["what"].words, r["reason"].words) for r in rows} == {
        ("training", "not run yet"),
        ("suite entropy", "ValueError: no"),
    }


def test_every_trial_is_listed_with_its_accuracy(written):
    table = written.tables["trials"]
    assert len(table.rows) == 27
    assert row_of(table, "dense")["top1"].value == pytest.approx(0.80)


def test_non_finite_values_are_left_out_of_a_mean():
    cell = summary([0.5, float("nan"), 0.7])
    assert (cell.value, cell.n) == (pytest.approx(0.6), 2)


def test_an_si_column_has_one_prefix_for_all_its_cells():
    column = Column("flops", "spent", "FLOP", si=True)
    table = assemble("t", "T", "", [column], [Row((Cell(2e12),)), Row((Cell(5e9),))])
    assert table.columns[0].heading == "spent (TFLOP)"
    assert [table.columns[0].number(v) for v in (2e12, 5e9)] == ["2.00", "0.01"]


def test_specialization_is_shown_only_for_routers_with_experts(written):
    table = written.tables["specialization"]
    shown = [system for system in written.study.systems if system.router != "dense"]
    assert [row.entry.system for row in table.rows] == shown
    row = row_of(table, "random")
    assert [row[key].value for key in ("experts_with_effect", "largest_drop", "passes")] == (
        pytest.approx([0.75, 0.1, 0.5])
    )
    keys = {
        row.entry.label: row_of(table, row.entry.label)["polysemanticity"] for row in table.rows
    }
    assert [name for name, cell in keys.items() if cell.best] == ["soft_moe"]
    assert keys["my_gate"].words == "–"
