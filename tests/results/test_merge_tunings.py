"""Merging the trials of `tune`: none is lost, none is duplicated, differences are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from bench.tune import merge_tunings, search_results
from bench.tune.merging import MergedSearch, MergedTunings
from bench.tune.storage import FILE, has_tuning, open_tuning
from results import StoreError, open_store

RATES = {"train.lr": FloatDistribution(1e-4, 1e-1, log=True)}
ASKED = {"pruner": "none", "description": {"seed": 1_000_000}, "parts": []}


def tried(number: int, accuracy: float | None, rate: float = 0.0) -> FrozenTrial:
    """Return a finished training, pruned if it has no accuracy."""
    pruned = accuracy is None
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=accuracy,
        params={"train.lr": rate or 0.001 * (number + 1)},
        distributions=RATES,
        intermediate_values={1: 0.1, 2: 0.2 + number / 100},
        user_attrs={
            **{"status": "pruned" if pruned else "done", "training": f"training {number}"},
            **{"setting": number, "repeat": 0},
        },
    )


THREE = [tried(0, 0.5), tried(1, None), tried(2, 0.75)]
UNDER_WAY = create_trial(
    state=TrialState.RUNNING, params={"train.lr": 0.004}, distributions=RATES, user_attrs={}
)


def search(
    target: str, trials: Sequence[FrozenTrial], name: str = "t/dense", asked: Any = ASKED
) -> str:
    """Make a database with these trials; return its name."""
    with open_store(target) as store, open_tuning(store.engine) as storage:
        store.study(name.partition("/")[0], {"tuning": {"seed": 0}})
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        study.set_user_attr("asked", asked)
        study.add_trials(trials)
    return target


def results(target: str) -> Any:
    with open_store(target, create=False) as store:
        return search_results(store, "t")


def merged(target: str, *sources: str) -> list[tuple[MergedSearch, ...]]:
    return [each.searches for each in merge_tunings(target, sources)]


@pytest.fixture
def node(tmp_path: Path) -> str:
    return search(str(tmp_path / "node" / "bench.db"), THREE)


def test_the_trials_of_a_tuning_are_merged_once(target: str, node: str, tmp_path: Path) -> None:
    other = search(str(tmp_path / "other" / "bench.db"), THREE[:1], "t/soft_moe")
    before = (tmp_path / "node" / FILE).read_bytes()
    assert merged(target, node, other) == [
        (MergedSearch("t/dense", 3),),
        (MergedSearch("t/soft_moe", 1),),
    ]
    assert results(target) == results(node) | results(other)
    assert results(target)["dense"].settings == {"train.lr": 0.003}
    assert (results(target)["dense"].done, results(target)["dense"].pruned) == (2, 1)
    again = merge_tunings(target, [other, node])
    assert not any(each.is_new for each in again)
    assert {own for each in again for own in each.searches} == {
        MergedSearch("t/dense"),
        MergedSearch("t/soft_moe"),
    }
    assert (tmp_path / "node" / FILE).read_bytes() == before
    assert {path.name for path in (tmp_path / "node").iterdir()} == {"bench.db", FILE}


def test_a_copy_has_everything_that_optuna_stores(target: str, node: str) -> None:
    merged(target, node)
    kept = []
    for name in (target, node):
        with open_store(name) as store, open_tuning(store.engine) as storage:
            study = optuna.load_study(study_name="t/dense", storage=storage)
            assert study.user_attrs == {"asked": ASKED}
            kept.append([{**vars(trial), "_trial_id": None} for trial in study.get_trials()])
    assert kept[0] == kept[1]


def test_a_longer_tuning_extends_a_merged_one_without_its_running_trials(
    target: str, tmp_path: Path
) -> None:
    node = search(str(tmp_path / "node" / "bench.db"), [THREE[0], UNDER_WAY])
    assert merged(target, node) == [(MergedSearch("t/dense", 1),)]
    ended = search(str(tmp_path / "ended" / "bench.db"), THREE)
    assert merged(target, ended) == [(MergedSearch("t/dense", 2),)]
    assert merged(target, node) == [(MergedSearch("t/dense"),)]  # the target is ahead
    assert results(target) == results(ended)


@pytest.mark.parametrize(
    ("trials", "asked", "difference"),
    [
        ([tried(0, 0.5), tried(1, 0.25)], ASKED, "training 2 here: pruned, train.lr=0.002"),
        (
            [tried(0, 0.5, rate=0.02)],
            ASKED,
            "there: done, top-1 50 %, train.lr=0.02, trial training 0",
        ),
        (THREE, {**ASKED, "pruner": "median"}, "begun with another seed, other settings"),
    ],
)
def test_a_different_search_of_the_same_name_is_shown_and_not_mixed_in(
    target: str, node: str, tmp_path: Path, trials: Any, asked: Any, difference: str
) -> None:
    merged(target, node)
    other = search(str(tmp_path / "other" / "bench.db"), trials, asked=asked)
    search(other, THREE[:1], "t/soft_moe")
    dense, soft = merged(target, other)[0]
    assert (dense.added, soft) == (0, MergedSearch("t/soft_moe", 1))
    assert difference in str(dense.difference)
    assert results(target)["dense"] == results(node)["dense"]


def test_a_running_trial_in_the_target_is_not_overwritten(target: str, node: str) -> None:
    search(target, [THREE[0], UNDER_WAY])
    ((dense,),) = merged(target, node)
    assert "training 2 is under way here, and has ended there" in str(dense.difference)
    assert results(target)["dense"].trials == 1


def test_a_database_that_lacks_the_settings_of_its_tunings_is_named(
    target: str, node: str, tmp_path: Path
) -> None:
    (tmp_path / "node" / FILE).unlink()
    source = f"sqlite:///{node}"
    assert merge_tunings(target, [node]) == [MergedTunings(source, (), ("t",))]
    with open_store(target) as store:
        assert not has_tuning(store.engine)


def test_a_tuning_source_is_only_read(target: str, node: str, tmp_path: Path) -> None:
    search(target, THREE)
    into = str(tmp_path / "all" / "bench.db")
    assert merged(into, target) == [(MergedSearch("t/dense", 3),)]
    assert results(into) == results(node)
    with (
        open_store(target) as store,
        pytest.raises(StoreError, match=r"read-?only"),
        open_tuning(store.engine, read_only=True) as storage,
    ):
        optuna.load_study(study_name="t/dense", storage=storage).add_trial(THREE[0])


def test_a_tuning_file_that_is_no_database_is_named(target: str, node: str, tmp_path: Path) -> None:
    (tmp_path / "node" / FILE).write_bytes(b"no database at all, but long enough" * 40)
    with pytest.raises(StoreError, match=r"cannot use the tuning beside sqlite:.*not a database"):
        merge_tunings(target, [node])
