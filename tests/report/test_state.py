"""A report is not written again where it would show the same."""

from __future__ import annotations

import report.state
from report import write_report
from report.state import is_written, state_of
from results import Store
from results.frames import measurements_frame, trials_frame


def state(store: Store) -> str:
    return state_of(trials_frame(store, "tiny"), measurements_frame(store, "tiny"))


def test_a_report_is_known_until_something_new_is_to_be_shown(lab, store, tmp_path) -> None:
    study = lab(suites=["accuracy"])
    study.study_of({"dense": [0.80, 0.81]})
    folder = tmp_path / "report"
    assert not is_written(folder, state(store))
    write_report(store, "tiny", folder)
    assert is_written(folder, state(store))
    study.trial("soft_moe", 0, 0.9, {})
    assert not is_written(folder, state(store))


def test_a_report_of_other_code_is_written_anew(lab, store, tmp_path, monkeypatch) -> None:
    lab(suites=["accuracy"]).study_of({"dense": [0.80, 0.81]})
    before = state(store)
    other = tmp_path / "state.py"
    other.write_text("# another version\n")
    monkeypatch.setattr(report.state, "__file__", str(other))
    assert state(store) != before
