"""The report of an incomplete study: what failed, what was cut off, and where to read more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from report.study import load_study
from report.topics import trials
from report.topics.trials import Logs, incomplete, readable
from report.write import write_report
from results import Subject

TRACEBACK = "Traceback (most recent call last):\n  <module>\nValueError: 3 < 4 & more"
NOTE = "micro-batches of 32: the batch did not fit"


@pytest.fixture
def night(lab):
    """A study with one trial of each fate."""
    study = lab(suites=("accuracy",))
    study.study_of({"dense": [0.7]})
    study.trial("soft_moe", 0, 0.8, {}, note=NOTE)
    study.ended("soft_moe", 1, "interrupted", error="SIGTERM")
    study.waiting("soft_moe", 2)
    study.running("random", 0)
    study.ended("my_gate", 0, "timed_out", error="longer than 20 h", log_tail="step 7\n\x1b[31mred")
    study.ended("my_gate", 1, "out_of_memory", note="micro-batches of 16", error="CUDA …\nmore")
    study.ended("my_gate", 2, "failed", error="ValueError: 3 < 4", traceback=TRACEBACK)
    return study


def cells(table):
    keys = [column.key for column in table.columns]
    return [{k: c.words for k, c in zip(keys, row.cells, strict=True)} for row in table.rows]


def test_trials_not_done_are_distinguished_from_failed_ones(night, store):
    reasons = {
        (row["router"], row["seed"]): (row["status"], row["reason"])
        for row in cells(trials.failures(load_study(store)))
    }
    assert reasons == {
        ("soft_moe", "1"): ("not done", "stopped from outside; the next run resumes it"),
        ("soft_moe", "2"): ("not done", "not run yet"),
        ("random", "0"): ("not done", "worked on when this report was made"),
        ("my_gate", "0"): ("timed out", "longer than 20 h"),
        ("my_gate", "1"): ("out of memory", "CUDA …"),
        ("my_gate", "2"): ("failed", "ValueError: 3 < 4"),
    }


def test_rows_contain_notes_and_logs(night, store):
    study = load_study(store)
    every = {(row["router"], row["seed"]): row for row in cells(trials.trials(study))}
    assert every["soft_moe", "0"]["note"] == NOTE
    assert every["soft_moe", "1"]["log"] == "logs/soft_moe-1.log"
    assert every["random", "0"]["log"] == ""
    failed = {(row["router"], row["seed"]): row for row in cells(trials.failures(study))}
    assert failed["my_gate", "1"]["note"] == "micro-batches of 16"
    assert failed["my_gate", "1"]["log"] == "logs/my_gate-1.log"


def test_a_failed_measurement_has_the_log_of_its_trial(night, store):
    attempt = store.done_attempt("tiny-soft_moe-0-{}").id
    machine, code = night.machine_ids[0], night.code
    store.record_measurement(
        "entropy", {}, "entropy", machine, code, attempt_id=attempt,
        status="failed", error="ValueError: no", traceback=TRACEBACK,
    )  # fmt: skip
    layer = store.layers([Subject("layer", night.described("soft_moe", {}))])[0]
    store.add_layer_to_study(night.study, layer)
    store.record_measurement(
        "throughput", {}, "throughput", machine, code, layer_id=layer,
        status="failed", error="BenchError: no layer fits",
    )  # fmt: skip
    *_, entropy, timing = incomplete(load_study(store))
    assert (entropy.what, entropy.log) == ("suite entropy", "logs/a.log")
    assert entropy.traceback == TRACEBACK
    assert (timing.what, timing.seed, timing.log) == ("suite throughput", "", "")


def test_the_page_links_existing_logs(night, store, tmp_path):
    home = tmp_path / "a home"
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "my_gate-2.log").write_text("what it said")
    for folder in (home / "reports" / "tiny", tmp_path / "else where"):
        html = write_report(store, "tiny", folder, home).index_html.read_text(encoding="utf-8")
        links = set(re.findall(r'href="([^"#]*my_gate[^"]*)"', html))
        assert len(links) == 1
        target = Path(folder, *[part.replace("%20", " ") for part in links.pop().split("/")])
        assert target.read_text() == "what it said"
        assert "logs/my_gate-1.log" in html


def test_without_a_home_logs_are_named_but_not_linked(night, store, tmp_path):
    html = write_report(store, "tiny", tmp_path / "out").index_html.read_text(encoding="utf-8")
    assert "logs/my_gate-2.log" in html
    assert not re.search(r'href="[^"]*logs', html)


def test_the_page_contains_tracebacks_and_the_ends_of_logs(night, store, tmp_path):
    html = write_report(store, "tiny", tmp_path / "out").index_html.read_text(encoding="utf-8")
    assert "ValueError: 3 &lt; 4 &amp; more</pre>" in html
    assert "step 7\nred</pre>" in html
    assert html.count('<details class="card trace">') == 2


def test_a_missing_log_is_not_linked(tmp_path):
    (tmp_path / "a.log").touch()
    assert Logs(tmp_path, tmp_path / "x" / "y").link("a.log") == "../../a.log"
    assert Logs(tmp_path, tmp_path).link("b.log") is None
    assert Logs(tmp_path, tmp_path).link("") is None
    assert Logs(None, tmp_path).link("a.log") is None


def test_terminal_escape_codes_are_removed():
    assert readable("\x1b[1;32mgreen\x1b[0m\tand\x00 \x1b[?25lplain\nmore…") == (
        "green\tand plain\nmore…"
    )
