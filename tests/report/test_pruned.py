"""The table and figure of pruned models, on known numbers."""

from __future__ import annotations

import numpy as np
import pytest

from report.study import load_study
from report.table import Absent, Table
from report.topics.pruning import draw, table
from results import Array, Metric

RULES = ("prune_count", "prune_random")


def numbers(seed: int, rules: tuple[str, ...]) -> list[Metric]:
    """Top-1 of 80 % with all 4 experts; 10 points less per halving, 20 less by random choice."""
    metrics = []
    for experts, lost in ((4, 0.0), (2, 0.1), (1, 0.2)):
        for rule in rules if experts < 4 else (None,):
            where = {"experts": experts} | ({"rule": rule} if rule else {})
            top1 = 0.8 + 0.01 * seed - lost * (1 + (rule == "prune_random"))
            metrics.append(Metric("pruned_top1", top1, split="test", where=where))
            for name, value in (("flops", 100), ("bytes", 1000), ("ms", 2.0)):
                metrics.append(Metric(f"pruned_{name}", value * experts, where=where))
            if rule:
                metrics.append(Metric("pruned_time_ratio", experts / 4, where=where))
    return metrics


@pytest.fixture
def study(lab, store):
    made = lab(suites=("accuracy",))
    made.study_of({"softmax_token_choice": [0.8, 0.81], "soft_moe": [0.8, 0.81], "dense": [0.7]})
    for router, rules in (("softmax_token_choice", RULES), ("soft_moe", RULES[1:])):
        for seed in (0, 1):
            trial = next(
                each
                for each in store.all_trials()
                if each.description["router"]["name"] == router and each.description["seed"] == seed
            )
            attempt = store.done_attempt(trial.fingerprint)
            reasons = [] if router != "soft_moe" else ["prune_count: all experts get all tokens"]
            store.record_measurement(
                "pruning",
                {},
                "pruning",
                made.machine_ids[0],
                made.code,
                attempt_id=attempt.id,
                metrics=numbers(seed, rules),
                arrays=[Array("undefined_rules", np.array(reasons))] if reasons else [],
            )
    return load_study(store)


def rows_of(made: Table) -> list[dict]:
    keys = [column.key for column in made.columns]
    return [dict(zip(keys, row.cells, strict=True)) for row in made.rows]


def test_each_number_of_experts_has_a_row_with_the_accuracy_by_each_rule(study):
    made = table(study)
    rows = {(row["router"].words, row["experts"].words): row for row in rows_of(made)}
    assert len(rows) == 6
    for experts, by_count, by_chance in (("4", 0.805, 0.805), ("2", 0.705, 0.605)):
        row = rows["softmax_token_choice", experts]
        assert row["pruned_top1_prune_count"].value == pytest.approx(by_count)
        assert row["pruned_top1_prune_random"].value == pytest.approx(by_chance)
        assert row["pruned_flops"].value == 100 * int(experts)
    assert rows["soft_moe", "4"]["pruned_top1_prune_count"].words == "n/a"
    assert rows["soft_moe", "1"]["pruned_time_ratio"].value == 0.25
    assert "Not defined: prune_count: all experts get all tokens." in made.caption


def test_each_rule_has_a_line_over_the_number_of_experts_left(study):
    (figure,) = draw(study)
    first, second = figure.figure.axes
    lines = [line.get_ydata().tolist() for line in first.lines]
    assert lines == [pytest.approx([80.5, 70.5, 60.5]), pytest.approx([80.5, 60.5, 40.5])]
    assert len(second.lines) == 1
    assert [line.get_xdata().tolist() for line in first.lines] == [[4, 2, 1]] * 2


def test_table_and_figure_say_if_pruning_was_not_measured(lab, store):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8]})
    study = load_study(store)
    for made in (table(study), *draw(study)):
        assert isinstance(made, Absent)
        assert "pruning" in made.why
