"""Each kind of deliberate damage is named, and a sound database has no fault."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from results import Array, Metric, Store, StoreError, Subject, open_store
from results.verify import Checkpoint, Fault, stored_checkpoints, tried_trials, verify_rows

PAGE = 4096
"""Bytes per SQLite page."""


@pytest.fixture
def filled(filler, description) -> Store:
    """A store with one trial and one layer, each measured with a number and an array."""
    store = filler.store
    attempt = filler.trial(description(), "a" * 64)
    (layer,) = store.layers([Subject("b" * 64, description(seed=None))])
    store.add_layer_to_study(store.study("tiny", {}), layer)
    for subject in ({"attempt_id": attempt}, {"layer_id": layer}):
        store.record_measurement(
            *("balance", {}, "h", filler.machine, filler.code),
            metrics=[Metric("load_cv", 0.5), Metric("dropped", 0.0)],
            arrays=[Array("load", np.arange(3))],
            **subject,
        )
    return store


@pytest.fixture
def damaged(tmp_path: Path, filler, filled: Store) -> Callable[..., list[Fault]]:
    """Return the faults after SQL that breaks a SQLite file: `damaged("DELETE …", 1)`."""

    def find(statement: str, *values: object) -> list[Fault]:
        if filled.engine.dialect.name != "sqlite":
            pytest.skip("PostgreSQL refuses most of these")
        filled.close()
        connection = sqlite3.connect(tmp_path / "bench.db")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement, values)
        connection.commit()
        connection.close()
        before = (tmp_path / "bench.db").read_bytes()
        with open_store(tmp_path / "bench.db", create=False, read_only=True) as store:
            faults = verify_rows(store)
        assert (tmp_path / "bench.db").read_bytes() == before
        return faults

    return find


def test_a_sound_database_has_no_fault(filled: Store) -> None:
    assert verify_rows(filled) == []


def test_rows_without_their_parent_are_counted_by_parent(damaged) -> None:
    assert damaged("DELETE FROM measurements WHERE id = 2") == [
        Fault(
            "foreign key", f"{table}: {rows}", "measurement_id is 2, and measurements has no row 2"
        )
        for table, rows in (("arrays", "1 row, the first 2"), ("metrics", "2 rows, the first 3"))
    ]


def test_a_link_to_a_missing_component_is_named(damaged) -> None:
    assert damaged("INSERT INTO trial_components VALUES (1, 77)") == [
        Fault(
            "foreign key",
            "trial_components: 1 row",
            "component_id is 77, and components has no row 77",
        )
    ]


def test_trials_and_layers_without_a_study_are_orphans(damaged) -> None:
    why = "it belongs to no study, so no report shows it"
    assert damaged("DELETE FROM study_trials") == [Fault("orphan", "trial aaaaaaaaaa", why)]
    assert damaged("DELETE FROM study_layers")[1:] == [Fault("orphan", "layer bbbbbbbbbb", why)]


@pytest.mark.parametrize(
    "content", [b"", b"no array", b"\x93NUMPY\x01\x00"], ids=["empty", "other", "cut"]
)
def test_an_unreadable_array_is_named(damaged, content: bytes) -> None:
    (fault,) = damaged('UPDATE arrays SET "values" = ? WHERE id = 1', content)
    assert (fault.kind, fault.what) == ("array", "array 1: load of balance, aaaaaaaaaa")
    assert fault.why.startswith("it cannot be read: ")


def test_an_array_that_would_be_unpickled_is_not_read(damaged, tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    content = (tmp_path / "pickled.npy").read_bytes()
    (fault,) = damaged('UPDATE arrays SET "values" = ? WHERE id = 2', content)
    assert fault.what == "array 2: load of balance, bbbbbbbbbb"
    assert "allow_pickle" in fault.why


def test_a_measurement_of_two_subjects_violates_a_constraint(damaged) -> None:
    (fault,) = damaged("UPDATE measurements SET layer_id = 1 WHERE id = 1")
    assert (fault.kind, fault.what) == ("constraint", "measurements: row 1")
    assert "attempt_id IS NULL" in fault.why


def test_a_damaged_index_is_found_by_sqlites_own_check(filled: Store, tmp_path: Path) -> None:
    if filled.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL has no one file")
    filled.close()
    file = tmp_path / "bench.db"
    connection = sqlite3.connect(file)
    query = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_metrics_measurement_id'"
    ((page,),) = connection.execute(query).fetchall()
    connection.close()
    with file.open("r+b") as opened:
        opened.seek((page - 1) * PAGE)
        opened.write(bytes(PAGE))
    with open_store(file, create=False, read_only=True) as store:
        faults = verify_rows(store)
    assert faults
    assert {(fault.kind, fault.what) for fault in faults} == {("database file", str(file))}


def test_a_truncated_file_is_refused_or_named(filled: Store, tmp_path: Path) -> None:
    if filled.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL has no one file")
    filled.close()
    file = tmp_path / "bench.db"
    content = file.read_bytes()
    damage = []
    for pages in range(1, len(content) // PAGE):
        file.write_bytes(content[: len(content) - pages * PAGE])
        try:
            with open_store(file, create=False, read_only=True) as store:
                damage.append(str(verify_rows(store)))
        except StoreError as error:
            damage.append(str(error))
    assert all("malformed" in each or "disk image" in each for each in damage), damage


def test_a_path_shared_by_several_attempts_belongs_to_the_last(filler, description) -> None:
    store = filler.store
    (trial,) = store.trials([Subject("a" * 64, description())])
    for digest in ("1", "2"):
        attempt = store.begin_attempt(trial, filler.machine, filler.code)
        saved = {"checkpoint": "trials/a/final.safetensors", "checkpoint_sha256": digest * 64}
        store.finish_attempt(attempt, "done", **saved)
    (other,) = store.trials([Subject("b" * 64, description(seed=1))])
    store.finish_attempt(store.begin_attempt(other, filler.machine, filler.code), "failed")
    store.trials([Subject("c" * 64, description(seed=2))])
    path = "trials/a/final.safetensors"
    assert stored_checkpoints(store) == [Checkpoint(path, "2" * 64, "a" * 64)]
    assert sorted(tried_trials(store)) == ["a" * 64, "b" * 64]
