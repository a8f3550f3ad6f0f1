"""Optuna's tables are kept beside the results, never among them."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from sqlalchemy import inspect, make_url, text

from bench.config.presets import load_preset
from bench.data.registry import Datasets
from bench.execute.context import RunOptions
from bench.plan.plan import make_request
from bench.tune.best_settings import search_results
from bench.tune.storage import FILE, SCHEMA, open_tuning
from bench.tune.tuner import Tuning, tune
from results import Store, StoreError, open_store


def test_tuning_trials_have_their_own_tables(store: Store, tmp_path: Path) -> None:
    ours = set(inspect(store.engine).get_table_names())
    for value in (0.25, 0.5):
        with open_tuning(store.engine) as storage:
            study = optuna.create_study(
                storage=storage, study_name="t/dense", direction="maximize", load_if_exists=True
            )
            study.tell(study.ask(), value)
    with open_tuning(store.engine) as storage:
        kept = optuna.load_study(study_name="t/dense", storage=storage).get_trials()
    assert [trial.value for trial in kept] == [0.25, 0.5]
    assert set(inspect(store.engine).get_table_names()) == ours
    if store.engine.dialect.name == "sqlite":
        assert (tmp_path / FILE).exists()
    else:
        assert "trials" in inspect(store.engine).get_table_names(schema=SCHEMA)


def test_looking_up_tunings_creates_no_file(sqlite_store: Store, tmp_path: Path) -> None:
    assert search_results(sqlite_store, "t") == {}
    assert not (tmp_path / FILE).exists()


def test_session_options_in_a_url_apply_to_a_tuning_too(target: str) -> None:
    if not target.startswith("postgresql"):
        pytest.skip("SQLite has no sessions")
    url = make_url(target).update_query_dict({"options": "-clock_timeout=12345"})
    with (
        open_store(url.render_as_string(hide_password=False)) as store,
        open_tuning(store.engine) as storage,
        storage.engine.connect() as connection,
    ):
        values = [
            connection.scalar(text(f"SHOW {name}")) for name in ("lock_timeout", "search_path")
        ]
    assert values == ["12345ms", SCHEMA]


@pytest.mark.slow
def test_a_tuning_can_be_continued_in_each_kind_of_database(store: Store, tmp_path: Path) -> None:
    preset = load_preset("smoke").model_copy(update={"parts": ()})
    settings = {"train.epochs": 0.2, "train.evaluations": 2}
    asked = make_request(preset, routers=["dense"], settings=settings).preset
    best = []
    for trials in (1, 2):
        config = asked.tune.model_copy(update={"trials": trials, "seeds": 1})
        tuning = Tuning("t", asked.model_copy(update={"tune": config}))
        tally = tune(tuning, store, tmp_path, Datasets(), lambda event: None, RunOptions(jobs=0))
        assert (tally.trained, tally.failures) == (1, [])
        best.append(search_results(store, "t")["dense"])
    assert [each.trials for each in best] == [1, 2]
    assert best[1].values[:1] == best[0].values


def test_an_unreadable_tuning_is_one_clear_message(sqlite_store: Store, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    raised = pytest.raises(
        StoreError, match=r"cannot use the tuning beside sqlite:.*not a database"
    )
    with raised, open_tuning(sqlite_store.engine):
        pass
