"""Merging databases of several machines: equal rows become one, differences are kept and shown."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, text

from results import (
    Array,
    CodeVersion,
    Component,
    Machine,
    Metric,
    Run,
    Store,
    StoreError,
    Subject,
    open_store,
)
from results.columns import Base
from results.connect import connect, resolve
from results.frames import arrays_of, components_frame, metrics_frame, trials_frame
from results.merge import Disagreement, disagreements, merge_all
from results.models import AttemptRow, StudyRow
from results.store.leases import this_process

CODE = CodeVersion("0123456789abcdef", dirty=False, python="3.11.7", libraries={"torch": "2.6.0"})
MACHINE = Machine("node", "Linux 6.1", "EPYC 7B13", cores=2, threads=1, memory_bytes=8 * 2**30)
UNITS = {"top1": "share", "nll": "nat", "train_seconds": "s", "images_per_s": "images/s"}
UNITS |= {"pruned_time_ratio": "", "forward_ms": "ms"}
SUITE = Component(
    *("suite", "accuracy", "source of the suite", "s1"),
    metrics=[{"name": name, "unit": unit, "better": None} for name, unit in UNITS.items()],
)


@dataclass(frozen=True)
class Node:
    """A machine with its own home, and a database in it."""

    home: Path
    store: Store
    described: Callable[..., dict[str, Any]]

    @property
    def file(self) -> str:
        return str(self.home / "bench.db")

    @property
    def machine(self) -> int:
        return self.store.machine(replace(MACHINE, name=self.home.name))

    def trial(
        self, router: str, seed: int = 0, study: str = "tiny", parent: str | None = None
    ) -> int:
        """Add a trial to a study; its fingerprint is its name."""
        code = Component("router", router, f"source of {router}", "r1")
        components = self.store.components([code, SUITE])[:1]
        name = f"{router} {seed}"
        subject = Subject(name, self.described(router, seed), components, parent)
        (trial,) = self.store.trials([subject])
        self.store.add_trial_to_study(self.store.study(study, {"by": self.home.name}), trial)
        return trial

    def attempt(
        self, trial: int, status: str = "done", weights: bytes = b"", folder: str = "f"
    ) -> int:
        code = self.store.code_version(CODE)
        attempt = self.store.begin_attempt(trial, self.machine, code, f"logs/{folder}.log")
        saved: dict[str, Any] = {}
        if weights:
            path = f"trials/{folder}/final.safetensors"
            (self.home / path).parent.mkdir(parents=True, exist_ok=True)
            (self.home / path).write_bytes(weights)
            saved = {"checkpoint": path, "checkpoint_sha256": sha256(weights).hexdigest()}
        if status != "running":
            self.store.finish_attempt(attempt, status, seconds=2.5, **saved)
        return attempt

    def measure(self, *metrics: Metric, suite: str = "accuracy", **subject: int) -> int:
        """Add a measurement with an array, of `attempt_id` or `layer_id`."""
        arrays = [Array("load", np.arange(3, dtype=np.int16), layer=1, where={"of": "gates"})]
        return self.store.record_measurement(
            *(suite, {"batch": 8}, "s1", self.machine, self.store.code_version(CODE)),
            metrics=metrics,
            arrays=arrays,
            **subject,
        )

    def result(self, router: str, seed: int, **values: float) -> int:
        """Add a trial that is done and measured; return the attempt."""
        attempt = self.attempt(self.trial(router, seed))
        metrics = [Metric(name, value, split="test") for name, value in values.items()]
        self.measure(*metrics, attempt_id=attempt)
        return attempt

    def timing(self, value: float) -> None:
        (layer,) = self.store.layers([Subject("layer", self.described("soft_moe", None))])
        self.store.add_layer_to_study(self.store.study("tiny", {}), layer)
        self.measure(Metric("forward_ms", value), suite="throughput", layer_id=layer)


@pytest.fixture
def node(tmp_path: Path, description) -> Iterator[Callable[[str], Node]]:
    """Make nodes: `node("a")`."""
    nodes: dict[str, Node] = {}

    def made(name: str) -> Node:
        if name not in nodes:
            home = tmp_path / name
            nodes[name] = Node(home, open_store(home / "bench.db"), description)
        return nodes[name]

    yield made
    for each in nodes.values():
        each.store.close()


def contents(target: str) -> dict[str, list[Any]]:
    """Return all rows of a database in a fixed order, with ids replaced by what they refer to.

    File paths are left out: if two attempts have the same one, the second gets a new one.
    """
    left_out = {"id", "checkpoint", "log"}
    engine = connect(resolve(target))
    texts: dict[tuple[str, int], str] = {}
    by_table = {}
    with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            rows = []
            for row in connection.execute(select(table)).mappings():
                values = {key: value for key, value in row.items() if key not in left_out}
                for key in table.foreign_keys:
                    other = row[key.parent.name]
                    values[key.parent.name] = other and texts[key.column.table.name, other]
                rows.append(repr(values))
                if "id" in row:
                    texts[table.name, row["id"]] = rows[-1]
            by_table[table.name] = sorted(rows)
    engine.dispose()
    return by_table


def top1(target: str, study: str = "tiny") -> Mapping[str, float]:
    with open_store(target, create=False) as store:
        frame = metrics_frame(store, study).query("metric == 'top1'")
        return dict(zip(frame["trial"], frame["value"], strict=True))


def two_nodes(node: Callable[[str], Node]) -> tuple[Node, Node]:
    """Make two nodes with one common trial, of different results, and one trial each of its own."""
    a, b = node("a"), node("b")
    a.result("soft_moe", 0, top1=0.75, train_seconds=10.0)
    a.result("soft_moe", 1, top1=0.5)
    a.timing(2.0)
    b.result("soft_moe", 0, top1=0.875, train_seconds=20.0)
    b.result("dense", 0, top1=0.25, nll=math.nan)
    b.timing(3.0)
    return a, b


def test_each_trial_of_several_machines_appears_once(node, target: str, tmp_path: Path) -> None:
    a, b = two_nodes(node)
    merged = merge_all(target, [a.file, b.file], tmp_path)
    assert [each.added["trials"] for each in merged] == [2, 1]
    assert [each.added["attempts"] for each in merged] == [2, 2]
    # For the trial that both have, the attempt that began last counts.
    assert top1(target) == {"soft_moe 0": 0.875, "soft_moe 1": 0.5, "dense 0": 0.25}
    with open_store(target) as store:
        history = metrics_frame(store, "tiny", history=True).query("metric == 'top1'")
        assert sorted(history["value"]) == [0.25, 0.5, 0.75, 0.875]
        assert set(history["machine_name"]) == {"a", "b"}
        loads = [each.values for each in arrays_of(store, "tiny")]
    assert len(loads) == 5
    assert all(load.dtype == np.int16 and load.tolist() == [0, 1, 2] for load in loads)


def test_a_database_of_either_kind_can_be_a_source(
    filler, target: str, tmp_path: Path, description
) -> None:
    attempt = filler.trial(description(), "f1")
    filler.store.record_measurement(
        *("accuracy", {"batch": 8}, "s1", filler.machine, filler.code),
        attempt_id=attempt,
        metrics=[Metric("top1", 0.5, where={"of": "gates"}), Metric("nll", math.nan)],
        arrays=[Array("load", np.array([[1, 2]], np.int16))],
    )
    into = str(tmp_path / "all.db")
    (merged,) = merge_all(into, [target], tmp_path)
    assert merged.trials == ("f1",)
    assert contents(into) == contents(target)
    assert not merge_all(into, [target], tmp_path)[0].is_new
    with pytest.raises(StoreError, match="is the database that is merged into"):
        merge_all(target, [target], tmp_path)


def test_timings_keep_their_machines(node, target: str, tmp_path: Path) -> None:
    a, b = two_nodes(node)
    merge_all(target, [a.file, b.file], tmp_path)
    with open_store(target) as store:
        frame = metrics_frame(store, "tiny").query("metric == 'forward_ms'")
    assert dict(zip(frame["machine_name"], frame["value"], strict=True)) == {"a": 2.0, "b": 3.0}


def test_merging_again_changes_nothing(node, target: str, tmp_path: Path) -> None:
    a, b = two_nodes(node)
    first = merge_all(target, [a.file, b.file], tmp_path)
    before = contents(target)
    again = merge_all(target, [b.file, a.file], tmp_path)
    assert all(each.is_new for each in first)
    assert not any(each.is_new for each in again)
    assert [each.added for each in again] == [{}, {}]
    assert contents(target) == before
    # A later measurement of an attempt that was already merged is added to it.
    a.measure(Metric("nll", 1.5), suite="later", attempt_id=1)
    (later,) = merge_all(target, [a.file], tmp_path)
    assert later.added == {"measurements": 1, "metrics": 1, "arrays": 1}


def test_sources_are_only_read(node, target: str, tmp_path: Path) -> None:
    a, b = two_nodes(node)
    before = [contents(each.file) for each in (a, b)]
    for each in (a, b):
        each.store.close()
    files = {each.home: (each.home / "bench.db").read_bytes() for each in (a, b)}
    merge_all(target, [a.file, b.file], tmp_path)
    for each in (a, b):
        assert [file.name for file in each.home.iterdir()] == ["bench.db"]
        assert (each.home / "bench.db").read_bytes() == files[each.home]
    assert [contents(each.file) for each in (a, b)] == before


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_the_order_of_merging_makes_no_difference(
    node, tmp_path: Path, order: tuple[int, ...]
) -> None:
    a, b = two_nodes(node)
    c = node("c")
    c.result("soft_moe", 0, top1=0.5)  # the newest of the three
    c.trial("soft_moe", 1, study="other")
    nodes = [a, b, c]
    together, one_by_one = str(tmp_path / "all.db"), str(tmp_path / "one.db")
    merge_all(together, [each.file for each in nodes], tmp_path)
    for place in order:
        merge_all(one_by_one, [nodes[place].file], tmp_path)
    assert contents(one_by_one) == contents(together)
    assert top1(one_by_one) == top1(together)
    assert top1(together)["soft_moe 0"] == 0.5
    with open_store(one_by_one) as one, open_store(together) as other:
        columns = ["trial", "status", "machine_name", "seconds"]
        frames = [trials_frame(each)[columns].sort_values("trial") for each in (one, other)]
        assert frames[0].to_csv(index=False) == frames[1].to_csv(index=False)
        assert disagreements(one, ["soft_moe 0"]) == disagreements(other, ["soft_moe 0"])


def test_databases_can_be_merged_into_one_that_has_its_own_results(node, tmp_path: Path) -> None:
    a, b = two_nodes(node)
    merge_all(a.file, [b.file], a.home)
    assert top1(a.file) == {"soft_moe 0": 0.875, "soft_moe 1": 0.5, "dense 0": 0.25}
    merge_all(b.file, [a.file], b.home)
    assert contents(a.file) == contents(b.file)


def test_an_attempt_measured_on_two_machines_counts_once(node, target: str, tmp_path: Path) -> None:
    a, b = node("a"), node("b")
    attempt = a.attempt(a.trial("soft_moe", 0))
    merge_all(b.file, [a.file], b.home)
    for each, value in ((b, 0.5), (a, 0.75)):
        each.measure(Metric("top1", value), attempt_id=attempt)
    merge_all(target, [a.file, b.file], tmp_path)
    assert top1(target) == {"soft_moe 0": 0.75}
    with open_store(target) as store:
        assert len(metrics_frame(store, "tiny")) == 1
        assert len(metrics_frame(store, "tiny", history=True)) == 2
        (differing,) = disagreements(store, ["soft_moe 0"])
    assert (differing.value, differing.machine) == (0.5, "b")
    assert (differing.other_value, differing.other_machine) == (0.75, "a")


def test_the_newest_counts_even_if_merged_first(node, target: str, tmp_path: Path) -> None:
    a, b = node("a"), node("b")
    a.timing(2.0)
    a.result("soft_moe", 0, top1=0.75)
    old, new = (Component("router", "dense", "", code, summary=code) for code in ("r1", "r2"))
    a.store.components([old])
    b.result("soft_moe", 0, top1=0.875)
    b.store.components([new])
    b.timing(3.0)
    merge_all(target, [b.file, a.file], tmp_path)
    assert top1(target) == {"soft_moe 0": 0.875}
    with open_store(target) as store:
        done = store.done_attempt("soft_moe 0")
        assert done is not None
        assert done.id == 1
        machine = store.machine_of("tiny")
        assert machine is not None
        assert machine.name == "b"
        cards = components_frame(store).set_index("name")
        assert cards.loc["dense", "summary"] == "r2"
        with store.reading() as session:
            assert session.scalars(select(StudyRow.request)).all() == [{}]  # b's timing was last


def test_attempts_that_have_not_ended_are_left_out(node, target: str, tmp_path: Path) -> None:
    a = node("a")
    for seed, status in enumerate(["done", "failed", "interrupted", "running"]):
        a.attempt(a.trial("soft_moe", seed), status)
    run = a.store.start_run(a.store.study("tiny", {}), Run(*this_process(), "run", 1))
    a.store.lease(run, trial_id=4)
    over = a.store.start_run(a.store.study("tiny", {}), Run(*this_process(), "run", 1))
    a.store.finish_run(over)
    (merged,) = merge_all(target, [a.file], tmp_path)
    assert merged.unfinished == 2
    with open_store(target) as store:
        assert [run.finished_at is not None for run in store.runs()] == [True]
        assert store.leases() == []
        states = trials_frame(store, "tiny").set_index("seed")["status"]
        assert states.to_dict() == {0: "done", 1: "failed", 2: "waiting", 3: "waiting"}


def test_derived_trials_keep_their_parents(node, target: str, tmp_path: Path) -> None:
    a = node("a")
    b = node("b")
    b.trial("dense", 5)  # so that the numbers of rows differ
    for each in (b, a):
        each.trial("soft_moe", 0)
    a.trial("soft_moe", 1, parent="soft_moe 0")
    merge_all(target, [b.file, a.file], tmp_path)
    with open_store(target) as store:
        parents = trials_frame(store).set_index("trial")["parent"]
    assert parents["soft_moe 1"] == "soft_moe 0"
    assert parents.drop("soft_moe 1").isna().all()


def test_differing_results_of_a_trial_are_named(node, target: str, tmp_path: Path) -> None:
    a, b = node("a"), node("b")
    same = {"train_seconds": 1.0, "images_per_s": 5.0, "pruned_time_ratio": 0.5}
    times = {name: 2 * value for name, value in same.items()}
    a.result("soft_moe", 0, top1=0.75, nll=math.nan, **same)
    b.result("soft_moe", 0, top1=0.5, nll=math.nan, **times)
    a.result("soft_moe", 1, top1=0.75)
    b.result("soft_moe", 1, top1=0.75)
    curves = [(a, 0.25, 10.0), (b, 0.3, 20.0)]
    for each, value, seconds in curves:
        where = {"flops": 1e9 * value, "seconds": seconds}
        points = [Metric("top1", 0.5, None, 8, "val", where), Metric("top1", value, 2, 16, "val")]
        attempt = each.attempt(each.trial("dense", 7))
        each.measure(*points, attempt_id=attempt)
    merge_all(target, [b.file, a.file], tmp_path)
    with open_store(target) as store:
        differing = disagreements(store, ["soft_moe 0", "soft_moe 1", "dense 7"])
    assert differing == [
        Disagreement(
            *("soft_moe 0", "soft_moe", 0, "accuracy", "top1", "test"),
            *(0.75, "a", 0.5, "b"),
            differing=1,
            numbers=1,
        ),
        Disagreement(
            *("dense 7", "dense", 7, "accuracy", "top1", "val layer 2 step 16"),
            *(0.25, "a", 0.3, "b"),
            differing=1,
            numbers=2,
        ),
    ]
    assert differing[0].size == pytest.approx(0.25 / 0.75)


def test_a_number_differs_from_a_missing_value(node, target: str, tmp_path: Path) -> None:
    a, b = node("a"), node("b")
    a.result("soft_moe", 0, top1=0.5, nll=1.0)
    b.result("soft_moe", 0, top1=0.5, nll=math.nan)
    merge_all(target, [a.file, b.file], tmp_path)
    with open_store(target) as store:
        (differing,) = disagreements(store, ["soft_moe 0"])
    assert differing.metric == "nll"
    assert math.isinf(differing.size)


def test_trainings_matched_by_seconds_are_compared_only_within_a_machine(
    node, target: str, tmp_path: Path
) -> None:
    a, b = node("a"), node("b")
    for each, value in ((a, 0.5), (b, 0.75)):
        described = each.described("soft_moe", 0, compute__match="wall_clock")
        (trial,) = each.store.trials([Subject("timed", described)])
        each.measure(Metric("top1", value), attempt_id=each.attempt(trial))
    merge_all(target, [a.file, b.file], tmp_path)
    with open_store(target) as store:
        assert disagreements(store, ["timed"]) == []


def test_machines_with_the_same_name_are_distinguished(node, target: str, tmp_path: Path) -> None:
    a = node("a")
    for threads, value in ((1, 0.5), (2, 0.75)):
        machine = a.store.machine(replace(MACHINE, name="a", threads=threads))
        code, trial = a.store.code_version(CODE), a.trial("soft_moe", 0)
        attempt = a.store.begin_attempt(trial, machine, code)
        a.store.finish_attempt(attempt, "done")
        made = ("accuracy", {}, "s1", machine, code)
        a.store.record_measurement(*made, attempt_id=attempt, metrics=[Metric("top1", value)])
    merge_all(target, [a.file], tmp_path)
    with open_store(target) as store:
        (differing,) = disagreements(store, ["soft_moe 0"])
    assert differing.machine.startswith("a ")
    assert differing.other_machine.startswith("a ")
    assert differing.machine != differing.other_machine


def test_an_array_is_copied_byte_for_byte(node, tmp_path: Path) -> None:
    """Even an unreadable one, which is not the concern of a merge."""
    a = node("a")
    a.result("soft_moe", 0, top1=0.5)
    with a.store.writing() as session:
        session.execute(text('UPDATE arrays SET "values" = :bytes'), {"bytes": b"broken"})
    target = tmp_path / "all.db"
    merge_all(str(target), [a.file], tmp_path)
    with sqlite3.connect(target) as connection:
        assert connection.execute('SELECT "values" FROM arrays').fetchall() == [(b"broken",)]
    connection.close()


def test_weights_and_logs_beside_a_database_are_copied(node, tmp_path: Path) -> None:
    a, b, home = node("a"), node("b"), tmp_path / "all"
    for each in (a, b):
        (each.home / "logs").mkdir()
        (each.home / "logs" / "f.log").write_text(each.home.name)
        each.attempt(each.trial("soft_moe", 0), weights=each.home.name.encode())
        (each.home / "trials" / "f" / "outcome.json").write_text(each.home.name)
    a.attempt(a.trial("soft_moe", 1), weights=b"damaged", folder="damaged")
    (a.home / "trials" / "damaged" / "final.safetensors").write_bytes(b"other")
    target = str(home / "bench.db")
    merged = merge_all(target, [a.file, b.file], home)
    assert [each.folders for each in merged] == [1, 1]
    with open_store(target) as store, store.reading() as session:
        rows = session.scalars(select(AttemptRow).order_by(AttemptRow.id)).all()
        weights = [home / str(row.checkpoint) for row in rows]
        logs = [(home / str(row.log)) for row in rows]
        hashes = [row.checkpoint_sha256 for row in rows]
    assert [file.is_file() for file in weights] == [True, False, True]
    for file, name in ((weights[0], "a"), (weights[2], "b")):
        assert file.read_text() == name
        assert (file.parent / "outcome.json").read_text() == name
    assert weights[2].parent.name == f"f-{str(hashes[2])[:8]}"
    assert [logs[0].read_text(), logs[2].read_text()] == ["a", "b"]
    again = merge_all(target, [a.file, b.file], home)
    assert not any(each.is_new for each in again)
    assert len(list((home / "trials").iterdir())) == 2


def test_weights_come_along_although_an_interrupted_training_has_their_folder(
    node, tmp_path: Path
) -> None:
    a, home = node("a"), tmp_path / "all"
    a.attempt(a.trial("soft_moe", 0), weights=b"weights")
    own = home / "trials" / "f" / "resume.safetensors"
    own.parent.mkdir(parents=True)
    own.write_text("state")
    target = str(home / "bench.db")
    (merged,) = merge_all(target, [a.file], home)
    assert merged.folders == 1
    with open_store(target) as store, store.reading() as session:
        path = home / session.scalars(select(AttemptRow.checkpoint)).one()
    assert (path.read_bytes(), path.parent.name[:2]) == (b"weights", "f-")
    assert [file.name for file in own.parent.iterdir()] == [own.name]
    (again,) = merge_all(target, [a.file], home)
    assert (again.is_new, again.folders) == (False, 0)


def test_a_path_that_points_out_of_the_home_is_not_followed(node, tmp_path: Path) -> None:
    a, home = node("a"), tmp_path / "all"
    a.attempt(a.trial("soft_moe", 0), weights=b"weights", folder="../../outside")
    merge_all(str(home / "bench.db"), [a.file], home)
    assert not (home / "trials").exists()


def test_what_cannot_be_merged_is_refused_before_anything_is_written(node, tmp_path: Path) -> None:
    a = node("a")
    a.result("soft_moe", 0, top1=0.5)
    a.store.close()
    (tmp_path / "notes.txt").write_text("no database " * 100)
    (tmp_path / "empty.db").touch()
    link = tmp_path / "link.db"
    link.symlink_to(a.file)
    target = tmp_path / "all.db"
    cases = {
        str(tmp_path / "a" / "bench.dp"): r"there is no database .*did you mean '.*bench.db'",
        str(tmp_path / "notes.txt"): "file is not a database",
        str(tmp_path / "empty.db"): "empty.db is empty",
        str(target): "all.db is the database that is merged into",
    }
    for source, message in cases.items():
        with pytest.raises(StoreError, match=message):
            merge_all(str(target), [a.file, source], tmp_path)
        assert not target.exists()
    for same in (str(link), f"sqlite:///{a.file}"):
        with pytest.raises(StoreError, match="is the database that is merged into"):
            merge_all(a.file, [same], tmp_path)


def test_a_source_of_another_schema_must_be_upgraded_first(node, tmp_path: Path) -> None:
    a = node("a")
    a.store.close()
    with sqlite3.connect(a.file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0003'")
    connection.close()
    with pytest.raises(StoreError, match=r"schema 0003 .* run `python bench.py db upgrade --db"):
        merge_all(str(tmp_path / "all.db"), [a.file], tmp_path)


def test_nothing_of_a_damaged_source_is_merged(node, target: str, tmp_path: Path) -> None:
    a, b = node("a"), node("b")
    b.result("dense", 0, top1=0.5)
    a.result("soft_moe", 0, top1=0.5)
    a.store.close()
    with sqlite3.connect(a.file) as connection:
        connection.execute("DELETE FROM attempts")
    connection.close()
    merge_all(target, [b.file], tmp_path)
    before = contents(target)
    with pytest.raises(StoreError, match=r"measurements has a row with the attempt_id 1, and"):
        merge_all(target, [a.file], tmp_path)
    assert contents(target) == before
