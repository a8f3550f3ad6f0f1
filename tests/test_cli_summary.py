"""The table at the end of a run: means, intervals, and seeds counted where they differ."""

from __future__ import annotations

from io import StringIO

import pandas as pd
from rich.console import Console

from bench.cli.columns import Column, main_columns
from bench.cli.summary import SIDE_BY_SIDE, standings
from bench.cli.words import count, duration, flops, size

LONGEST = ("sparsity_constrained_expert_choice", "")


def text_of(columns: list[Column]) -> str:
    out = StringIO()
    Console(file=out, width=80).print(standings(columns))
    return out.getvalue()


def column(values: dict[tuple[str, str], list[float]], unit: str = "share") -> Column:
    return Column("accuracy", "top1", unit, "higher", values)


def test_a_cell_is_the_mean_with_half_of_its_interval() -> None:
    made = column({("a", ""): [0.70, 0.72], ("b", ""): [0.7], ("c", ""): [-0.00001]})
    # 2 values 0.02 apart: 12.706 standard errors of 0.01.
    assert made.cell(("a", "")) == "71.0±12.7"
    assert made.cell(("b", "")) == "70.0"
    assert made.cell(("c", "")) == "0.0"
    assert made.cell(("d", "")) == "–"
    assert column({("a", ""): [1.234]}, unit="").cell(("a", "")) == "1.23"
    assert made.meaning == "accuracy: top1 in % ↑"


def test_seeds_are_counted_where_they_differ() -> None:
    alike = text_of([column({("a", ""): [0.1, 0.2], ("b", ""): [0.1, 0.2]})])
    assert alike.splitlines()[0].split() == ["router", "accuracy"]
    unlike = text_of([column({("a", ""): [0.1, 0.2], ("b", "x=1"): [0.1]})])
    assert unlike.splitlines()[0].split() == ["router", "n", "accuracy"]
    assert unlike.splitlines()[2].split()[:2] == ["a", "2"]
    assert [line.split()[:2] for line in unlike.splitlines()[3:]] == [["x=1"], ["b", "1"]]


def test_what_goes_with_every_condition_stands_under_the_heading_of_none() -> None:
    made = text_of([column({("a", "x=1"): [0.1], ("dense", ""): [0.2], ("b", "x=2"): [0.3]})])
    lines = [line.rstrip() for line in made.splitlines()[2:]]
    assert [line.split()[0] for line in lines] == ["dense", "x=1", "a", "x=2", "b"]


def test_the_table_of_four_suites_fits_a_terminal() -> None:
    values = {LONGEST: [0.796, 0.812, 0.804]}
    columns = [
        Column(suite, "metric", unit, None, values)
        for suite, unit in (("accuracy", "share"), ("balance", ""), ("entropy", ""))
    ]
    columns.append(Column("throughput", "metric", "", None, {LONGEST: [1.5]}))
    assert len(columns) == SIDE_BY_SIDE
    lines = text_of(columns).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80


def test_numbers_read_as_people_write_them() -> None:
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
            "condition": "",
            "unit": "",
            "better": "lower",
            "machine": [machine for machine, _, _ in rows],
            "value": [value for _, value, _ in rows],
            "at": pd.to_datetime([at for _, _, at in rows]),
        }
    )
    (made,) = main_columns(frame)
    assert made.cell(("a", "")) == "3.00"


def test_a_single_timing_has_the_interval_of_its_own_repeats() -> None:
    names = ["forward_overhead", "forward_overhead_low", "forward_overhead_high"]
    frame = pd.DataFrame(
        {
            "suite": "throughput",
            "metric": names,
            "layer": None,
            "step": None,
            "where": '{"scope": "layer", "shape": "B"}',
            "router": "a",
            "condition": "",
            "unit": "",
            "better": ["lower", None, None],
            "machine": "node1",
            "value": [1.5, 1.25, 1.875],
            "at": pd.Timestamp("2026-01-01"),
        }
    )
    (made,) = main_columns(frame)
    interval = made.interval(("a", ""))
    assert (interval.mean, interval.low, interval.high) == (1.5, 1.25, 1.875)
    assert made.cell(("a", "")) == "1.50"


def test_what_is_constant_by_construction_is_known_as_such() -> None:
    frame = pd.DataFrame(
        {
            "suite": "balance",
            "metric": "load_cv",
            "layer": None,
            "step": None,
            "where": ['{"constant": true}', "{}"],
            "router": ["soft_moe", "random"],
            "condition": "",
            "unit": "",
            "better": "lower",
            "value": [0.0, 0.2],
        }
    )
    (made,) = main_columns(frame)
    assert made.constant == {("soft_moe", "")}
    assert [made.cell((router, "")) for router in ("soft_moe", "random")] == ["0.00", "0.20"]
