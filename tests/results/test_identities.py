"""Rows are found by what they are."""

from __future__ import annotations

import pytest

from results import Component, Machine, StoreError
from results.store.registration import ComponentRef, all_trials, find_trial, machine_row


def test_trials_come_back_with_their_components(filler) -> None:
    store = filler.store
    router = store.component(Component("router", "mine", "text", "h1"))
    data = store.component(Component("data", "digits", "", "h2"))
    row = store.trial("abc1", {"seed": 0}, components=[router, data])
    store.trial("abd2", {"seed": 1})
    first, second = all_trials(store)
    assert (first.id, first.fingerprint, first.description) == (row, "abc1", {"seed": 0})
    assert set(first.components) == {
        ComponentRef("router", "mine", "h1"),
        ComponentRef("data", "digits", "h2"),
    }
    assert second.components == ()


def test_a_trial_is_found_by_the_beginning_of_its_fingerprint(filler) -> None:
    store = filler.store
    store.trial("abc1", {})
    store.trial("abd2", {})
    assert find_trial(store, "abc").fingerprint == "abc1"
    with pytest.raises(StoreError, match=r"2 trials' fingerprints begin with 'ab'"):
        find_trial(store, "ab")
    with pytest.raises(StoreError, match=r"begins with 'abx1'; did you mean 'abc1'"):
        find_trial(store, "abx1")


def test_a_machine_is_found_as_long_as_it_is_the_same(filler) -> None:
    machine = Machine("other", "system", "processor", 2, 1, 10**9)
    assert machine_row(filler.store, machine) is None
    row = filler.store.machine(machine)
    assert machine_row(filler.store, machine) == row
