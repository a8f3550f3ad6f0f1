"""The table at the end of a run: means, intervals, and the seeds of each suite."""

from __future__ import annotations

from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from bench.cli.display import count, duration, flops, size
from bench.cli.summary import Column, Row, main_columns, print_standings, side_by_side, standings
from results.conditions import Condition

ANY = Condition()
LONGEST = "sparsity_constrained_expert_choice"


def text_of(columns: list[Column]) -> str:
    out = StringIO()
    Console(file=out, width=80).print(standings(columns))
    return out.getvalue()


def column(values: dict[Row, list[float]], unit: str = "share") -> Column:
    return Column("accuracy", "top1", unit, "higher", values)


def test_a_cell_shows_the_mean_and_half_the_width_of_its_interval() -> None:
    made = column({Row("a", ANY): [0.70, 0.72], Row("b", ANY): [0.7], Row("c", ANY): [-0.00001]})
    # 2 values 0.02 apart: 12.706 standard errors of 0.01.
    assert made.cell(Row("a", ANY)) == "71.0±12.7"
    assert made.cell(Row("b", ANY)) == "70.0"
    assert made.cell(Row("c", ANY)) == "0.0"
    assert made.cell(Row("d", ANY)) == "–"
    assert column({Row("a", ANY): [1.234]}, unit="").cell(Row("a", ANY)) == "1.23"
    assert made.meaning == "accuracy: top1 in % ↑"


def test_rows_that_belong_to_every_condition_come_first_without_a_heading() -> None:
    made = text_of(
        [
            column(
                {
                    Row("a", Condition((("x", "1"),))): [0.1],
                    Row("dense", ANY): [0.2],
                    Row("b", Condition((("x", "2"),))): [0.3],
                }
            )
        ]
    )
    lines = [line.rstrip() for line in made.splitlines()[3:]]
    assert [line.split()[0] for line in lines] == ["dense", "x=1", "a", "x=2", "b"]


def test_each_suite_shows_its_own_number_of_seeds() -> None:
    rows = {Row("a", ANY): [0.1, 0.2], Row("b", ANY): [0.1, 0.2]}
    fewer = Column("balance", "load_cv", "", "lower", {row: [0.5] for row in rows})
    lines = text_of([column(rows), fewer]).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["accuracy", "balance"],
        ["router", "n=2", "n=1"],
    ]
    assert lines[3].split() == ["a", "15.0±63.5", "0.50"]


def test_each_cell_shows_its_number_of_seeds_if_they_differ() -> None:
    unlike = column({Row("a", ANY): [0.1, 0.2], Row("b", Condition((("x", "1"),))): [0.1]})
    alike = Column("balance", "load_cv", "", "lower", {Row("a", ANY): [0.5]})
    lines = text_of([unlike, alike]).splitlines()
    assert lines[1].split() == ["router", "(n)", "n=1"]
    assert lines[3].split() == ["a", "15.0±63.5", "(2)", "0.50"]
    assert [line.split() for line in lines[4:]] == [["x=1"], ["b", "10.0", "(1)", "–"]]


def standings_frame(suites: dict[str, int]) -> pd.DataFrame:
    """Return main metrics of one router for that many seeds per suite."""
    metrics = {"accuracy": "top1", "balance": "load_cv", "throughput": "forward_overhead"}
    where = {"throughput": '{"scope": "layer", "shape": "B"}'}
    rows = [(suite, seed) for suite, seeds in suites.items() for seed in range(seeds)]
    return pd.DataFrame(
        {
            "suite": [suite for suite, _ in rows],
            "metric": [metrics[suite] for suite, _ in rows],
            "layer": None,
            "step": None,
            "where": [where.get(suite, "{}") for suite, _ in rows],
            "router": "a",
            "aa_replicate": 0,
            "settings": "{}",
            "seed": [seed for _, seed in rows],
            "unit": "",
            "better": "lower",
            "machine": "node1",
            "value": [0.5 + seed for _, seed in rows],
            "at": pd.Timestamp("2026-01-01"),
            "older": False,
            "changed": None,
        }
    )


def test_suites_that_were_not_requested_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    frame = standings_frame({"accuracy": 8, "balance": 2, "throughput": 1})
    print_standings("study", frame, ["accuracy", "throughput"])
    shown = capsys.readouterr().out
    assert "Study study: mean of n seeds, ± half of its 95 % interval" in shown
    assert "balance" not in shown
    assert [line.split() for line in shown.splitlines() if "n=" in line] == [
        ["router", "n=8", "n=1"]
    ]
    print_standings("study", frame, ["throughput"])
    assert "Study study: one seed" in capsys.readouterr().out
    print_standings("study", frame, ["entropy"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("others", [3, 2])
@pytest.mark.parametrize("condition", [ANY, Condition((("router.capacity_factor", "1.0"),))])
@pytest.mark.parametrize("name", ["balance", "specialization"])
def test_tables_of_many_suites_fit_into_a_terminal(
    others: int, condition: Condition, name: str
) -> None:
    values = {
        Row(LONGEST, condition): [0.796, 0.812, 0.804],
        Row("a", condition): [0.796, 0.812, 0.804][:others],
    }
    columns = [Column(f"{name}{number}", "metric", "share", None, values) for number in range(7)]
    parts = side_by_side(columns)
    assert [column for part in parts for column in part] == columns
    assert 2 <= len(parts) <= 4
    for part in parts:
        lines = text_of(part).splitlines()
        assert len(lines) == 5 + bool(condition), "no cell must take two lines"
        assert max(map(len, lines)) <= 80


def test_numbers_are_formatted_as_people_write_them() -> None:
    assert [duration(s) for s in (0.44, 9.96, 59.4, 200, 7500)] == [
        *("0.4 s", "10 s", "59 s", "3 min 20 s", "2 h 05 min"),
    ]
    assert [size(b) for b in (312, 5.12e6, 2.4e9)] == ["312 B", "5.12 MB", "2.4 GB"]
    assert [count(n) for n in (912, 31_243, 5_379_748)] == ["912", "31.2k", "5.38M"]
    assert [flops(n) for n in (7.09e11, 1e18)] == ["7.1e11", "1.0e18"]


def test_timings_of_two_machines_are_not_averaged() -> None:
    rows = [("node1", 1.0, "2026-01-01"), ("node2", 3.0, "2026-01-02")]
    frame = pd.DataFrame(
        {
            "suite": "throughput",
            "metric": "forward_overhead",
            "layer": None,
            "step": None,
            "where": '{"scope": "layer", "shape": "B"}',
            "router": "a",
            "aa_replicate": 0,
            "settings": "{}",
            "seed": None,
            "unit": "",
            "better": "lower",
            "machine": [machine for machine, _, _ in rows],
            "value": [value for _, value, _ in rows],
            "at": pd.to_datetime([at for _, _, at in rows]),
        }
    )
    (made,) = main_columns(frame)
    assert made.cell(Row("a", ANY)) == "3.00"


def test_a_single_timing_has_the_interval_of_its_repeats() -> None:
    names = ["forward_overhead", "forward_overhead_low", "forward_overhead_high"]
    frame = pd.DataFrame(
        {
            "suite": "throughput",
            "metric": names,
            "layer": None,
            "step": None,
            "where": '{"scope": "layer", "shape": "B"}',
            "router": "a",
            "aa_replicate": 0,
            "settings": "{}",
            "seed": None,
            "unit": "",
            "better": ["lower", None, None],
            "machine": "node1",
            "value": [1.5, 1.25, 1.875],
            "at": pd.Timestamp("2026-01-01"),
        }
    )
    (made,) = main_columns(frame)
    interval = made.interval(Row("a", ANY))
    assert (interval.mean, interval.low, interval.high) == (1.5, 1.25, 1.875)
    assert made.cell(Row("a", ANY)) == "1.50"


def test_values_that_are_constant_by_construction_are_recognised() -> None:
    frame = pd.DataFrame(
        {
            "suite": "balance",
            "metric": "load_cv",
            "layer": None,
            "step": None,
            "where": ['{"constant": true}', "{}"],
            "router": ["soft_moe", "random"],
            "aa_replicate": 0,
            "settings": "{}",
            "seed": 0,
            "unit": "",
            "better": "lower",
            "value": [0.0, 0.2],
        }
    )
    (made,) = main_columns(frame)
    assert made.constant == {Row("soft_moe", ANY)}
    assert [made.cell(Row(router, ANY)) for router in ("soft_moe", "random")] == ["0.00", "0.20"]
