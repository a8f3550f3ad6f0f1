"""`why` names the part that decided whether a trial is reused."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bench.config.presets import load_preset
from bench.data.registry import Datasets
from bench.plan import fingerprint
from bench.plan.definitions import Code, Definition, Definitions
from bench.plan.plan import make_plan, make_request
from bench.plan.registration import record_plan
from bench.plan.reuse import Reuse, explain
from results import CodeVersion, Machine, Run, Store, migrate, open_store
from results.store.leases import this_process
from results.store.records import AttemptStatus

DATABASES = Path(__file__).parent.parent / "results" / "databases"


def stored(folder: Path, status: AttemptStatus) -> Store:
    """Store one trial of the dense baseline whose attempt ended with this status."""
    store = open_store(folder / "bench.db")
    request = make_request(load_preset("smoke"), routers=["dense"])
    plan = make_plan(request, Datasets())
    rows = record_plan(plan, store)
    machine = store.machine(Machine("host", "system", "processor", 2, 1, 10**9))
    code = store.code_version(CodeVersion(None, False, "3.11", {}))
    attempt = store.begin_attempt(rows[plan.trials[0].fingerprint.value], machine, code)
    if status != "running":
        outcome = {"error": "boom\nand so on", "traceback": "Traceback …\n  line\n"}
        store.finish_attempt(attempt, status, **outcome)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return stored(tmp_path, "done")


def lines(store: Store) -> list[str]:
    return list(explain(store.all_trials()[0], store))


def test_an_unchanged_trial_is_reused(store: Store) -> None:
    said = lines(store)
    assert said[1:] == [
        "dense, seed 0, on digits",
        "  same     router 'dense'",
        "  same     protocol 'training'",
        "  same     data 'digits'",
        "  same     model 'vit_tiny_patch16_224'",
        "reused: same description, data and source; its last attempt is done",
    ]


def test_the_changed_part_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "TRAINING", (*fingerprint.TRAINING, explain))
    said = lines(store)
    changed = next(line for line in said if line.startswith("  CHANGED  protocol 'training': "))
    assert changed.endswith(" more")
    assert "  same     router 'dense'" in said
    assert said[-1] == "not reused: changed source: protocol 'training'"


def test_the_changed_definition_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    code = Definitions.code

    def changed(definitions: Definitions, roots: Iterable[Definition]) -> Code:
        digests = code(definitions, roots)
        others = {(name, "0" if name == "learning_rate" else it) for name, it in digests.digests}
        return replace(digests, digests=frozenset(others))

    monkeypatch.setattr(Definitions, "code", changed)
    assert "  CHANGED  protocol 'training': learning_rate" in lines(store)


@pytest.mark.parametrize("dump", sorted(DATABASES.glob("*.sql")), ids=lambda file: file.stem)
def test_results_of_older_code_are_explained_and_not_reused(dump: Path, tmp_path: Path) -> None:
    """Its trial keeps its fingerprint, which no trial has now, whatever wrote the database."""
    file = tmp_path / "bench.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(dump.read_text())
    migrate.upgrade(file)
    with open_store(file) as store:
        trial = store.all_trials()[0]
        assert trial.fingerprint == "f1"
        whole = make_plan(make_request(load_preset("smoke"), routers=["soft_moe"]), Datasets())
        described = replace(trial, description=whole.trials[0].fingerprint.description)
        said = list(explain(described, store))
        assert said[-1].startswith("not reused: changed source: router 'soft_moe'")
        (decision,) = Reuse(store, tmp_path, None).trials(whole.trials)
        assert decision.train


def test_a_trial_whose_router_is_gone_cannot_be_described(store: Store) -> None:
    trial = store.all_trials()[0]
    trial.description["router"]["name"] = "densee"
    said = list(explain(trial, store))
    assert said[1].startswith("not reused: it cannot be described now: no router is named 'densee'")


def test_a_failed_trial_shows_its_traceback_and_how_to_retry_it(tmp_path: Path) -> None:
    said = lines(stored(tmp_path, "failed"))
    assert said[-2:] == [
        "not tried again: it failed: boom; --retry failed tries again",
        "Traceback …\n  line",
    ]


def test_an_interrupted_trial_resumes_unless_a_run_is_working_on_it(tmp_path: Path) -> None:
    store = stored(tmp_path, "running")
    assert lines(store)[-1] == "not reused: continues an interrupted attempt"
    run = store.start_run(store.find_study().id, Run(*this_process(), "run", 1))
    store.lease(run, trial_id=store.all_trials()[0].id)
    host = this_process()[0].split()[0]
    assert lines(store)[-1] == f"not reused: process {os.getpid()} of {host} is working on it now"
    store.finish_run(run)
    assert lines(store)[-1] == "not reused: continues an interrupted attempt"
