"""What an error means for its attempt and its run: known by types and codes, not by prose."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from sqlalchemy import create_engine, text

from bench.execute.failures import is_disk_full, status_of
from results import StoreError
from results.connect import resolve, store_errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_its_number_also_as_the_cause_of_another_error(
    number: int,
) -> None:
    error = RuntimeError("cannot save")
    error.__cause__ = OSError(number, "in any language")
    assert is_disk_full(error)
    assert status_of(error) == "interrupted"
    assert not is_disk_full(RuntimeError("no space left on device, says a plugin"))
    assert not is_disk_full(OSError(errno.EACCES, "no space left on device"))


def test_a_full_database_is_known_through_the_store(tmp_path: Path) -> None:
    url = resolve(tmp_path / "full.db")
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 2"))
        connection.execute(text("CREATE TABLE one (x)"))
        with pytest.raises(StoreError) as raised, store_errors(url, "write"):
            connection.execute(text("INSERT INTO one VALUES (zeroblob(100000))"))
    assert is_disk_full(raised.value)


def test_memory_that_no_allocator_has_is_known() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    assert status_of(raised.value) == "out_of_memory"
    assert status_of(MemoryError()) == "out_of_memory"
    assert status_of(RuntimeError("a mistake")) == "failed"
