"""Rankings of the same runs by three budgets, and the spending of each router, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from report.conditions import ANY, Entry, System
from report.study import load_study
from report.table import OUTSIDE, Absent
from report.topics import budgets, compute
from report.topics.budgets import mean_curve, order_changes, standings

from .conftest import FAMILIES
from .test_tables import row_of

ACCURACIES = {"dense": [0.80, 0.82], "random": [0.70, 0.70], "soft_moe": [0.90, 0.88]}


def at(top1: float, done: float) -> float:
    """Interpolate the curve that the lab writes between two of its eleven evaluations."""

    def value(share: float) -> float:
        return 0.1 + (top1 - 0.1) * (1 - 2.0 ** (-10 * share / 1.5))

    below = int(10 * done + 1e-9) / 10
    above = min(1.0, below + 0.1)
    return value(below) + (value(above) - value(below)) * (done - below) / 0.1


@pytest.fixture
def study(lab, store):
    """soft_moe spends a quarter more FLOPs and takes ten times as long; random is small."""
    lab(
        suites=("accuracy",),
        flops_error={"soft_moe": 0.25},
        seconds={"dense": 60.0, "random": 50.0, "soft_moe": 600.0},
        parameters={"dense": 1000, "random": 500, "soft_moe": 4000},
    ).study_of(ACCURACIES)
    return load_study(store)


def test_curves_are_cut_at_the_budget_that_all_runs_reached(study):
    by_flops, by_seconds, by_parameters = standings(study, ANY)
    assert (by_flops.cut, by_seconds.cut, by_parameters.cut) == (4e12, 50.0, None)
    soft, dense, random = (Entry(System(name)) for name in ("soft_moe", "dense", "random"))
    # A training of 5e12 FLOPs is cut at 0.8 of its way, one of 600 s at a twelfth.
    assert by_flops.accuracy[soft].to_dict() == pytest.approx({0: at(0.9, 0.8), 1: at(0.88, 0.8)})
    assert by_seconds.accuracy[soft].to_dict() == pytest.approx(
        {0: at(0.9, 1 / 12), 1: at(0.88, 1 / 12)}
    )
    assert by_seconds.accuracy[dense].to_dict() == pytest.approx(
        {0: at(0.8, 5 / 6), 1: at(0.82, 5 / 6)}
    )
    assert by_flops.ranks == {soft: 1, dense: 2, random: 3}
    assert by_seconds.ranks == {dense: 1, random: 2, soft: 3}
    # Each is better than those with fewer parameters: none dominates another.
    assert by_parameters.ranks == {soft: 1, dense: 1, random: 1}


def test_each_pair_whose_order_changes_is_named(study):
    assert list(map(str, order_changes(standings(study, ANY)))) == [
        "dense before soft_moe by seconds, after it by FLOPs",
        "random before soft_moe by seconds, after it by FLOPs",
    ]
    caption = compute.rankings_table(study).caption
    assert "the order of 2 pairs changes" in caption
    assert "(4e+12 FLOPs, 50 s on node-1)" in caption


def test_the_table_of_order_changes_lists_every_pair(study):
    rows = compute.order_changes_table(study).rows
    assert [[cell.words for cell in row.cells] for row in rows] == [
        ["dense", "soft_moe", "seconds", "FLOPs"],
        ["random", "soft_moe", "seconds", "FLOPs"],
    ]


MANY = {
    **{name: [0.80 + number / 100, 0.81 + number / 100] for number, name in enumerate(FAMILIES)},
    "soft_moe": [0.95, 0.96],
}
"""Ten routers that soft_moe outperforms."""


@pytest.fixture
def many(lab, store):
    """soft_moe takes ten times as long, and therefore comes last by seconds."""
    lab(suites=("accuracy",), seconds={"soft_moe": 600.0}).study_of(MANY)
    return load_study(store)


def test_the_caption_names_a_few_of_many_pairs_and_the_file_with_the_rest(many):
    caption = compute.rankings_table(many).caption
    assert "the order of 10 pairs changes" in caption
    assert "sinkhorn_expert_choice" not in caption
    assert caption.count(" before soft_moe by ") == 4
    assert caption.endswith("; and 6 more (tables/order_changes.csv).")
    assert len(compute.order_changes_table(many).rows) == 10


@pytest.mark.parametrize("condition", ["1.0", "2.0"])
def test_each_pair_is_named_with_its_condition(lab, store, condition):
    settings = [{"capacity_factor": 1.0}, {"capacity_factor": 2.0}]
    lab(suites=("accuracy",), seconds={"soft_moe": 600.0}).study_of(
        {"random": [0.7], "soft_moe": [0.9]}, settings
    )
    caption = compute.rankings_table(load_study(store)).caption
    under = f"under router.capacity_factor={condition} random before soft_moe by seconds"
    assert under in caption


def test_the_caption_says_if_no_pair_changes_its_order(lab, store):
    lab(suites=("accuracy",)).study_of(ACCURACIES)
    table = compute.rankings_table(load_study(store))
    assert "Between these budgets no pair changes its order." in table.caption
    absent = compute.order_changes_table(load_study(store))
    assert (absent.why, absent.fine) == ("no pair changes its order", True)
    # All have the same parameters: then the more accurate dominates.
    ranks = [row_of(table, name)["front_parameters"].value for name in ACCURACIES]
    assert ranks == [2, 3, 1]


def test_the_table_shows_the_values_behind_each_rank(study):
    row = row_of(compute.rankings_table(study), "soft_moe")
    assert (row["rank_flops"].value, row["rank_seconds"].value) == (1, 3)
    assert row["top1_flops"].value == pytest.approx((at(0.9, 0.8) + at(0.88, 0.8)) / 2)
    assert row["top1_flops"].n == 2
    assert len(row["rank_flops"].trials) == 2
    assert row["params_total"].value == 4000


def test_equal_accuracies_share_a_rank(lab, store):
    lab(suites=("accuracy",)).study_of({"dense": [0.8], "random": [0.8], "soft_moe": [0.7]})
    by_flops, *_ = standings(load_study(store), ANY)
    assert sorted(by_flops.ranks.values()) == [1, 1, 3]


def test_a_run_first_evaluated_after_the_cut_has_no_accuracy(lab, store):
    """In a training a hundred times as long, the first evaluation after step 0 is at a tenth."""
    lab(suites=("accuracy",), seconds={"soft_moe": 6000.0}).study_of(ACCURACIES)
    study = load_study(store)
    rows = study.metrics
    first = (rows["metric"] == "val_top1") & (rows["step"] == 0)
    later = replace(study, metrics=rows[~first])
    _, by_seconds, _ = standings(later, ANY)
    assert Entry(System("soft_moe")) not in by_seconds.ranks
    row = row_of(compute.rankings_table(later), "soft_moe")
    assert (row["rank_seconds"].words, row["rank_flops"].value) == ("–", 1)


def test_rankings_by_seconds_use_a_single_machine(lab, store):
    lab(suites=("accuracy",), machines=("fast",)).study_of({"dense": [0.8, 0.8]})
    lab(suites=("accuracy",), machines=("slow",)).study_of({"soft_moe": [0.9]})
    study = load_study(store)
    by_flops, by_seconds, _ = standings(study, ANY)
    assert set(by_flops.ranks) == {Entry(System("dense")), Entry(System("soft_moe"))}
    assert set(by_seconds.ranks) == {Entry(System("dense"))}
    assert "s on fast" in compute.rankings_table(study).caption


def test_without_curves_there_is_no_ranking(lab, store):
    lab(suites=("balance",)).study_of({"random": [0.7]})
    study = load_study(store)
    assert isinstance(compute.rankings_table(study), Absent)
    assert isinstance(compute.table(study), Absent)


def test_each_condition_is_ranked_separately(lab, store):
    settings = [{"capacity_factor": 1.0}, {"capacity_factor": 2.0}]
    lab(suites=("accuracy",)).study_of(ACCURACIES, settings)
    table = compute.rankings_table(load_study(store))
    assert len(table.rows) == 2 * 3  # dense belongs to both
    for factor in ("1.0", "2.0"):
        under = [row for row in table.rows if factor in row.cells[1].words]
        assert sorted(row.cells[3].value for row in under) == [1, 2, 3]


def test_the_table_shows_what_each_router_spent(study):
    table = compute.table(study)
    row = row_of(table, "soft_moe")
    assert row["train_flops"].value == 5e12
    assert row["step_flops"].value == 5e12 / 400
    assert row["budget_error"].value == pytest.approx(0.25)
    assert row["train_seconds"].value == 600
    assert row["machine"].words == "node-1"
    assert (row["params_total"].value, row["steps"].value) == (4000, 400)
    marked = {row.entry.label for row in table.rows if OUTSIDE in row.cells[0].marks}
    assert marked == {"soft_moe"}
    assert table.caption.startswith("Equal between the routers: the FLOPs of a training, from")


def test_the_requested_capacity_is_shown_beside_the_actual_one(lab, store):
    lab(suites=("accuracy",)).study_of({"random": [0.7]}, [{"capacity_factor": 1.5}])
    assert row_of(compute.table(load_study(store)), "random")["capacity_factor"].value == 1.5


def test_seconds_of_several_machines_are_not_pooled(lab, store):
    fast = lab(suites=("accuracy",), machines=("fast",))
    fast.study_of({"dense": [0.8]})
    slow = lab(suites=("accuracy",), machines=("slow",))
    slow.trial("dense", 1, 0.8, {})
    row = row_of(compute.table(load_study(store)), "dense")
    assert row["machine"].words == "fast, slow"
    assert row["train_flops"].n == 2


def test_the_page_shows_rankings_and_spending(written):
    assert "Rankings under three budgets" in written.html
    assert "What each router really spent" in written.html


def test_a_mean_curve_is_drawn_as_far_as_all_seeds_reach(lab, store):
    """Two seeds on one machine, interpolated linearly between evaluations, and their mean."""
    lab(suites=("accuracy",)).study_of({"dense": [0.8, 0.6]})
    study = load_study(store)
    machine = study.trials["machine"].iloc[0]
    curve = mean_curve(study, Entry(System("dense")), machine)
    assert (curve.index[0], curve.index[-1]) == (0, 60)
    for seconds in (0, len(curve) // 2, len(curve) - 1):
        done = curve.index[seconds] / 60
        expected = 50 * (at(0.8, min(done, 1 - 1e-12)) + at(0.6, min(done, 1 - 1e-12)))
        assert curve.iloc[seconds] == pytest.approx(expected)


def test_the_figure_shows_the_cut_in_seconds_and_the_first_front(study):
    drawing = next(budgets.draw(study))
    left, right = drawing.figure.axes
    cut = [line for line in left.lines if line.get_linestyle() == ":"]
    assert cut[0].get_xdata()[0] == 50.0
    front = right.lines[0]
    assert list(front.get_xdata()) == [500, 1000, 4000]
    assert list(front.get_ydata()) == sorted(front.get_ydata())
    assert len(right.lines) == 1 + 3


def test_without_curves_there_is_no_figure(lab, store):
    lab(suites=("balance",)).study_of({"random": [0.7]})
    assert isinstance(next(budgets.draw(load_study(store))), Absent)


def test_a_single_router_has_no_ranking(lab, store):
    lab(suites=("accuracy",)).study_of({"random": [0.7]})
    study = load_study(store)
    for part in (compute.rankings_table(study), next(budgets.draw(study))):
        assert isinstance(part, Absent)
        assert part.fine
