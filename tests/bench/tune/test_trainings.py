"""The trainings of a tuning: the same chances for each router, whatever happens."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from bench.config.schema import TuneConfig
from bench.data.registry import Datasets
from bench.execute.context import RunOptions
from bench.execute.events import Ended, Event, Progress, Started
from bench.train.outcome import read_outcome
from bench.tune.best_settings import search_results
from bench.tune.search import Search
from bench.tune.space import SEED, contenders
from bench.tune.storage import FILE
from bench.tune.tuner import Tuning, prepare_tuning, tune
from results import open_store
from results.frames import measurements_frame, trials_frame
from routers.errors import RequestError
from tests.bench.tune.conftest import preset_of

pytestmark = pytest.mark.slow


def test_a_tuning_trains_each_router_equally_often_and_keeps_the_best(
    tuned, store, tmp_path
) -> None:
    result = tuned(["softmax_token_choice", "dense"], 3)
    assert {name: (each.trials, each.done) for name, each in result.items()} == {
        "softmax_token_choice": (3, 3),
        "dense": (3, 3),
    }
    rows = trials_frame(store, "t").set_index("trial")
    assert list(rows["seed"].unique()) == [SEED]  # which no training of a study has
    for name, each in result.items():
        assert each.best == max(value for value in each.values if value is not None)
        assert rows.loc[each.training, "router"] == name
        outcome = read_outcome(tmp_path / "trials" / str(each.training)[:16])
        assert [p.value for p in outcome.history if p.name == "val_top1"][-1] == each.best
        assert len(outcome.snapshots) == 1  # only the last weights are kept
    assert (tmp_path / FILE).exists()
    assert measurements_frame(store, "t").empty  # no suite used the test split


def test_the_tuning_of_a_router_does_not_depend_on_other_routers(tuned, tmp_path) -> None:
    together = tuned(["dense", "softmax_token_choice"], 2)
    alone = tuned(["softmax_token_choice"], 2, home=tmp_path / "alone")
    assert alone["softmax_token_choice"] == together["softmax_token_choice"]


def test_a_finished_tuning_does_nothing_and_can_be_extended_with_more_trials(tuned) -> None:
    first = tuned(["dense"], 2)["dense"]
    events: list[Event] = []
    assert tuned(["dense"], 2, on_event=events.append)["dense"] == first
    assert not [event for event in events if isinstance(event, Started)]
    more = tuned(["dense"], 4)["dense"]
    assert (more.trials, more.values[:2]) == (4, first.values)


def test_the_best_settings_train_on_more_seeds_and_their_mean_decides(tuned, store) -> None:
    """The best 2 of 4 settings go on to 3 seeds: 4 + 2 · 2 trainings of each router."""
    result = tuned(["softmax_token_choice", "dense"], 4, seeds=3)
    rows = trials_frame(store, "t").set_index("trial")
    for name, each in result.items():
        assert each.count_trainings == len(each.trainings) == 8
        assert sorted(len(one.values) for one in each.tried) == [1, 1, 3, 3]
        first = sorted((one.values[0] for one in each.tried), reverse=True)
        finalists = [one for one in each.tried if len(one.values) == 3]
        assert sorted((one.values[0] for one in finalists), reverse=True) == first[:2]
        best = max(finalists, key=lambda one: one.mean)
        assert (each.best, each.settings, each.seeds) == (best.mean, best.settings, 3)
        assert each.training == best.trainings[0]
        for one in finalists:
            own = rows.loc[list(one.trainings)]
            assert list(own["seed"]) == [SEED, 2 * SEED, 3 * SEED]
            assert one.flops == own["flops"].sum()
        assert each.flops == rows.loc[list(each.trainings), "flops"].sum()
        assert set(rows.loc[list(each.trainings), "router"]) == {name}


def test_a_tuning_can_be_extended_by_settings_and_seeds(tuned) -> None:
    first = tuned(["dense"], 4, seeds=3)["dense"]
    more = tuned(["dense"], 7, seeds=3)["dense"]
    assert more.values[:4] == first.values
    # 3 of 7 settings go on; the 2 chosen from 4 keep their places.
    assert more.count_trainings == 7 + 3 * 2
    kept = {n for n, one in enumerate(first.tried) if len(one.values) == 3}
    assert kept < {n for n, one in enumerate(more.tried) if len(one.values) == 3}
    longer = tuned(["dense"], 7, seeds=4)["dense"]
    assert longer.count_trainings == more.count_trainings + 2


def test_a_tuning_begun_with_one_seed_can_continue_with_more() -> None:
    """Optuna's records of that time do not mention settings and seeds: each trial is a setting."""
    (contender,) = contenders(preset_of(["dense"]), 0)
    storage = InMemoryStorage()
    before = optuna.create_study(storage=storage, study_name="t/dense", direction="maximize")
    space = dict(contender.space)
    for lr, accuracy in ((1e-3, 0.5), (2e-3, 0.7), (3e-3, 0.6)):
        settings = {"train.lr": lr, "train.weight_decay": 0.1}
        before.add_trial(
            optuna.create_trial(
                params=settings,
                distributions=space,
                value=accuracy,
                user_attrs={"status": "done", "training": "of older code"},
            )
        )
    search = Search(storage, "t", contender, TuneConfig(trials=3, seeds=2))
    assert (search.total, search.left) == (5, 2)
    further = []
    while (step := search.next()) is not None:
        further.append((step.params["train.lr"], step.user_attrs["repeat"]))
        search.end(step.number, "done", 0.6)
    assert further == [(2e-3, 1), (3e-3, 1)]


def test_trainings_on_further_seeds_are_not_pruned() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    search = Search(InMemoryStorage(), "t", contender, TuneConfig(trials=8, seeds=2))
    while (step := search.next()) is not None:
        repeat = step.user_attrs["repeat"]
        stopped = search.report(step.number, 1, 0.9 - step.number / 100 if not repeat else 0.0)
        assert not (repeat and stopped)
        search.end(step.number, "pruned" if stopped else "done", 0.5)
    assert any(trial.state == TrialState.PRUNED for trial in search.trials)
    assert (len(search.trials), search.total, search.left) == (8 + 3, 8 + 3, 0)


def test_pruning_ends_a_training_early(tuned, store) -> None:
    """A tiny learning rate leaves the model where it began."""
    ranges = {"train.lr": {"low": 1e-12, "high": 1e-2, "log": True}}
    settings = {"train.epochs": 2.0, "train.evaluations": 4}
    events: list[Event] = []
    result = tuned(
        ["dense"], 9, ranges=ranges, pruner="median", settings=settings, on_event=events.append
    )["dense"]
    assert result.pruned > 0
    assert (result.trials, result.done + result.pruned, result.failed) == (9, 9, 0)
    assert result.settings["train.lr"] > 1e-4
    rows = trials_frame(store, "t")
    pruned = rows[rows["status"] == "pruned"]
    assert len(pruned) == result.pruned
    assert all("not promising: validation top-1" in text for text in pruned["error"])
    ended = [event.task.number for event in events if isinstance(event, Ended)]
    assert ended == list(range(1, 10))  # one after the other
    whole = max(event.step for event in events if isinstance(event, Progress))
    pruned_ones = [e.task for e in events if isinstance(e, Ended) and e.status == "pruned"]
    for task in pruned_ones:
        assert max(e.step for e in events if isinstance(e, Progress) and e.task == task) < whole


def test_a_worker_stops_a_training_on_request(store, datasets, tmp_path) -> None:
    ranges = {"train.lr": {"low": 1e-12, "high": 1e-2, "log": True}}
    settings = {"train.epochs": 2.0, "train.evaluations": 4}
    preset = preset_of(["dense"], 9, settings, ranges=ranges, pruner="median")
    how = RunOptions(jobs=1, save_every=0)
    tally = tune(Tuning("t", preset), store, tmp_path, datasets, lambda event: None, how)
    assert (tally.failures, tally.left) == ([], None)
    result = search_results(store, "t")["dense"]
    assert result.pruned > 0
    rows = trials_frame(store, "t")
    pruned = rows[rows["status"] == "pruned"]
    assert len(pruned) <= result.pruned  # its process may have finished before the request arrived
    for trial in pruned["trial"]:  # no state is kept to resume from
        assert not (tmp_path / "trials" / trial[:16] / "resume.safetensors").exists()
    assert (result.trials, result.done + result.pruned) == (9, 9)
    # Workers stop the same trainings as the executor in this process.
    home = tmp_path / "here"
    with open_store(home / "bench.db") as other:
        tune(Tuning("t", preset), other, home, datasets, lambda event: None, RunOptions(jobs=0))
        assert search_results(other, "t")["dense"] == result


def test_a_failed_trial_counts_as_a_trial(tuned, exploding, store) -> None:
    ranges = {"train.lr": {"low": 1e-3, "high": 1e-2}}

    def on_event(event: Event) -> None:
        if isinstance(event, Started):
            exploding.error = ValueError("boom") if event.task.number == 2 else None

    result = tuned(["exploding"], 3, ranges=ranges, on_event=on_event)["exploding"]
    assert (result.trials, result.done, result.failed) == (3, 2, 1)
    assert result.values[1] is None
    assert list(trials_frame(store, "t")["status"]) == ["done", "failed", "done"]


def test_incompatible_settings_fail_only_their_trial(tuned, store) -> None:
    """512 times the slots take more FLOPs than the dense model, whatever the experts' width."""
    ranges = {"router.capacity_factor": {"options": [1.0, 512.0]}}
    events: list[Event] = []
    settings = {"compute.match": "step_flops"}
    result = tuned(["soft_moe"], 4, ranges=ranges, settings=settings, on_event=events.append)
    each = result["soft_moe"]
    assert (each.trials, each.done + each.failed) == (4, 4)
    assert each.failed >= 1
    assert each.settings["router.capacity_factor"] == 1.0
    failed = [event for event in events if isinstance(event, Ended) and event.status == "failed"]
    assert len(failed) == each.failed
    assert all("or for less capacity" in str(event.error) for event in failed)
    assert len(trials_frame(store, "t")) == each.done


def test_an_interrupted_tuning_resumes(tuned, tmp_path) -> None:
    whole = tuned(["dense"], 3, home=tmp_path / "whole")

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and event.task.number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert tuned(["dense"], 3, on_event=on_event)["dense"].trials == 1
    assert tuned(["dense"], 3) == whole


def test_a_trial_killed_after_the_decision_to_prune_it_stays_pruned(
    tuned, store, monkeypatch
) -> None:
    settings = {"train.epochs": 2.0, "train.evaluations": 4}
    asked = {
        "ranges": {"train.lr": {"low": 1e-12, "high": 1e-2, "log": True}},
        "settings": settings,
    }

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        # The process ends after the decision and before any of it is recorded.
        patched.setattr("bench.execute.jobs.JobStore.prune_training", killed)
        with pytest.raises(Killed):
            tuned(["dense"], 9, pruner="median", **asked)
    events: list[Event] = []
    result = tuned(["dense"], 9, pruner="median", on_event=events.append, **asked)["dense"]
    first = min(event.task.number for event in events if isinstance(event, Started))
    row = trials_frame(store, "t").iloc[first - 2]
    assert row["status"] == "pruned"
    assert result.pruned > 0


def test_a_tuning_can_only_continue_with_its_original_request(tuned) -> None:
    tuned(["dense"], 1)
    for changes, message in (
        ({"seed": 1}, r"seed is 1000001, was 1000000"),
        ({"pruner": "median"}, r"pruner is median, was none"),
        ({"settings": {"train.batch_size": 32}}, r"train\.batch_size is 32, was 64"),
        ({"ranges": {"train.lr": {"low": 1, "high": 2}}}, r"range of train\.lr is .*, was "),
    ):
        with pytest.raises(
            RequestError, match=rf"'t' of dense was begun with another request: .*{message}"
        ):
            tuned(["dense"], 2, **changes)


def test_simultaneous_tunings_share_the_trainings(tuned, store, datasets, tmp_path) -> None:
    """Two runs with separate workers give the result of one alone."""
    routers = ["soft_moe", "dense"]
    preset, starts = preset_of(routers, 4, seeds=2), list[str]()

    def on_event(event: Event) -> None:
        if isinstance(event, Started):
            starts.append(f"{event.task.name} {event.task.number}")

    def work() -> None:
        with open_store(tmp_path / "bench.db") as own:
            tune(Tuning("t", preset), own, tmp_path, Datasets(), on_event, RunOptions(jobs=1))

    options = RunOptions(jobs=1)
    assert prepare_tuning(Tuning("t", preset), store, tmp_path, datasets, options, 0) == 2
    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(work) for _ in range(2)]:
            future.result()
    assert len(starts) == len(set(starts)) == len(trials_frame(store, "t"))
    together = search_results(store, "t")
    assert together == tuned(routers, 4, seeds=2, home=tmp_path / "alone")
