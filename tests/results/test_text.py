"""File names that are not UTF-8 are stored and returned as text that can be written."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from results import Array, Subject
from results.frames import arrays_of
from results.models import AttemptRow
from results.text import counted, readable

ODD = os.fsdecode(b"caf\xe9")


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_becomes_one_that_can_be_written(text: str) -> None:
    assert readable(text).encode().decode() == readable(text)
    assert readable(readable(text)) == readable(text)


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")))
def test_what_can_be_written_stays_as_it_is(text: str) -> None:
    assert readable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [(ODD, r"caf\xe9"), ("a\ud800b", r"a\ud800b"), ("a\0b", r"a\x00b"), ("кот", "кот")],
)
def test_an_undecodable_byte_is_shown_by_its_number(text: str, shown: str) -> None:
    assert readable(text) == shown


def test_a_store_keeps_the_readable_text(filler, description) -> None:
    store = filler.store
    attempt = store.begin_attempt(
        store.trials([Subject("f1", {"seed": 0})])[0], filler.machine, filler.code
    )
    store.finish_attempt(attempt, "failed", error=f"{ODD}/1.png is no image", log_tail=ODD)
    with store.reading() as session:
        row = session.scalars(select(AttemptRow)).one()
        assert (row.error, row.log_tail) == (r"caf\xe9/1.png is no image", r"caf\xe9")
    done = filler.trial(description())
    arrays = [Array("class_names", np.array([["кот", ODD]])), Array("counts", np.arange(3))]
    store.record_measurement(
        "entropy", {}, "h", filler.machine, filler.code, attempt_id=done, arrays=arrays
    )
    names, counts = arrays_of(store, "tiny")
    assert names.values.tolist() == [["кот", r"caf\xe9"]]
    assert counts.values.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 seeds"), (1, "1 seed"), (2, "2 seeds"), (1200, "1,200 seeds"), (1.0, "1 seed"),
     (0.5, "0.5 seeds"), (100 * 0.003, "0.3 seeds")],
)  # fmt: skip
def test_a_noun_agrees_with_its_number(number: float, shown: str) -> None:
    assert counted(number, "seed") == shown


def test_an_irregular_plural_can_be_given() -> None:
    assert [counted(n, "study", "studies") for n in (1, 2)] == ["1 study", "2 studies"]
