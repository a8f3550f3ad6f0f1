"""A report is not rewritten if it would show the same."""

from __future__ import annotations

from typing import Any

import report
from report import is_written, state_of
from report.write import write_report
from results import Store
from results.frames import measurements_frame, trials_frame


def state(store: Store) -> str:
    request = store.find_study("tiny").request
    return state_of(request, trials_frame(store, "tiny"), measurements_frame(store, "tiny"))


def test_a_report_is_current_until_there_is_something_new_to_show(lab, store, tmp_path) -> None:
    study = lab(suites=["accuracy"])
    study.study_of({"dense": [0.80, 0.81]})
    folder = tmp_path / "report"
    assert not is_written(folder, state(store))
    write_report(store, "tiny", folder)
    assert is_written(folder, state(store))
    study.trial("soft_moe", 0, 0.9, {})
    assert not is_written(folder, state(store))


def test_a_report_is_rewritten_if_the_request_changed(lab, store, tmp_path) -> None:
    """For instance if a tuning got more trials that found nothing better."""
    lab(suites=["accuracy"]).study_of({"dense": [0.80, 0.81]})
    write_report(store, "tiny", tmp_path)
    request = store.find_study("tiny").request
    store.study("tiny", {**request, "tuned": {"dense": tuned(20)}})
    assert not is_written(tmp_path, state(store))
    write_report(store, "tiny", tmp_path)
    store.study("tiny", {**request, "tuned": {"dense": tuned(20)}})
    assert is_written(tmp_path, state(store))
    store.study("tiny", {**request, "tuned": {"dense": tuned(21)}})
    assert not is_written(tmp_path, state(store))


def tuned(trials: int) -> dict[str, Any]:
    """Return the record of a tuning whose first trial was the best."""
    counts = {"trials": trials, "done": trials, "pruned": 0, "failed": 0}
    best = {"best": 0.8, "settings": {"train.lr": 1e-3}, "training": "0123456789"}
    return {**counts, **best, "values": [0.8] * trials}


def test_a_report_is_rewritten_if_the_code_changed(lab, store, tmp_path, monkeypatch) -> None:
    lab(suites=["accuracy"]).study_of({"dense": [0.80, 0.81]})
    before = state(store)
    other = tmp_path / "state.py"
    other.write_text("# another version\n")
    monkeypatch.setattr(report, "__file__", str(other))
    assert state(store) != before
