"""Tuning: the same chance for each router, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from bench.cli import main
from bench.config.presets import Preset, load_preset, validated_preset
from bench.config.schema import TuneConfig
from bench.data.registry import Datasets
from bench.execute.context import RunOptions
from bench.execute.events import Ended, Event, Progress, Started
from bench.plan.expand import trial_specs
from bench.plan.plan import make_plan, make_request
from bench.train.outcome import read_outcome
from bench.tune import best_settings
from bench.tune.best_settings import is_between_rungs, search_results, with_tuned
from bench.tune.search import Search, draw
from bench.tune.space import SEED, Contender, contenders
from bench.tune.storage import FILE
from bench.tune.tuner import Tuning, prepare_tuning, tune
from results import Store, open_store
from results.frames import measurements_frame, trials_frame
from results.tuned import SearchResult, SettingResult
from routers import ROUTERS, Range, Router, register_router
from routers.errors import RequestError
from routers.hyper import hyper

pytestmark = pytest.mark.slow

QUICK = {"train.epochs": 0.2, "train.evaluations": 4}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def datasets() -> Datasets:
    return Datasets()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bench.db")


@pytest.fixture
def tuned(
    tmp_path: Path, store: Store, datasets: Datasets
) -> Callable[..., dict[str, SearchResult]]:
    """Tunes on the digits, in this process, and returns the results."""

    def go(
        routers: list[str],
        trials: int = 3,
        *,
        on_event: Callable[[Event], None] = lambda event: None,
        home: Path | None = None,
        seed: int = 0,
        **changes: Any,
    ) -> dict[str, SearchResult]:
        asked = Tuning("t", preset_of(routers, trials, **changes), seed)
        if home is None:
            tune(asked, store, tmp_path, datasets, on_event, RunOptions(jobs=0))
            return search_results(store, "t")
        with open_store(home / "bench.db") as other:
            tune(asked, other, home, datasets, on_event, RunOptions(jobs=0))
            return search_results(other, "t")

    return go


def preset_of(
    routers: list[str], trials: int = 3, settings: dict[str, Any] | None = None, **tuning: Any
) -> Preset:
    """The preset smoke without its parts, shortened."""
    whole = load_preset("smoke").model_copy(update={"parts": ()})
    preset = make_request(whole, routers=routers, settings=QUICK | (settings or {})).preset
    fields = preset.model_dump()
    fields["tune"] |= {"trials": trials, "seeds": 1, "pruner": "none", **tuning}
    return validated_preset(fields, "the test's preset")


# Where a router is searched.


def test_a_router_is_searched_in_the_shared_ranges_and_its_own_that_nobody_sets() -> None:
    preset = preset_of(["softmax_token_choice", "dense"], settings={"router.noise_std": 1.0})
    router, dense = contenders(preset, 0)
    assert set(router.space) == {"train.lr", "train.weight_decay", "router.batch_priority"}
    assert set(dense.space) == {"train.lr", "train.weight_decay"}
    lr = dense.space["train.lr"]
    assert isinstance(lr, FloatDistribution)
    assert (lr.low, lr.high, lr.log) == (3e-4, 1e-2, True)
    batch_priority = router.space["router.batch_priority"]
    assert isinstance(batch_priority, CategoricalDistribution)
    assert batch_priority.choices == (False, True)


def test_a_router_is_searched_in_the_ranges_of_its_affinity() -> None:
    path = "router.affinity_options.initial_scale"
    scale = FloatDistribution(1.0, 30.0, log=True)
    plain = preset_of(["soft_moe", "softmax_token_choice"]).model_copy(update={"router": {}})
    soft, other = contenders(plain, 0)
    assert (soft.space[path], path in other.space) == (scale, False)
    cosine = plain.model_copy(update={"router": {"affinity": "cosine"}})
    names = {name for each in contenders(cosine, 0) for name in each.space}
    assert "router.affinity_options.temperature" in names
    assert path not in names
    # What a preset gives is given, unless its own ranges name it.
    sharp = plain.model_copy(update={"router": {"affinity_options": {"initial_scale": 10.0}}})
    assert path not in contenders(sharp, 0)[0].space
    ranges = {path: {"low": 1, "high": 30, "log": True}, "train.lr": {"low": 1e-3, "high": 1e-2}}
    named = preset_of(["soft_moe", "softmax_token_choice"], ranges=ranges)
    soft, other = contenders(named.model_copy(update={"router": sharp.router}), 0)
    assert (soft.space[path], path in other.space) == (scale, False)
    (other,) = contenders(preset_of(["softmax_token_choice"], ranges=ranges), 0)
    assert set(other.space) == {"train.lr", "router.noise_std", "router.batch_priority"}
    assert set(contenders(preset_of(["dense"], ranges=ranges), 0)[0].space) == {"train.lr"}


def test_what_is_swept_or_set_by_hand_is_not_searched() -> None:
    preset = preset_of(["softmax_token_choice"])
    preset = preset.model_copy(update={"sweep": {"router.noise_std": (1.0, 0.0)}})
    (contender,) = contenders(preset, 0, {"train.lr"})
    assert not {"router.noise_std", "train.lr"} & set(contender.space)
    assert contender.preset.router["noise_std"] == 1.0  # the first value of the sweep


def test_a_range_of_a_whole_number_holds_whole_numbers() -> None:
    ranges = {"train.batch_size": {"low": 16, "high": 64, "log": True}}
    (contender,) = contenders(preset_of(["dense"], ranges=ranges), 0)
    assert contender.space["train.batch_size"] == IntDistribution(16, 64, log=True)


def test_whether_a_number_is_whole_is_as_declared_whatever_the_preset_says() -> None:
    ranges = {"router.top_k": {"low": 1, "high": 3}, "router.noise_std": {"low": 0, "high": 1}}
    preset = preset_of(["softmax_token_choice"], ranges=ranges)
    preset = preset.model_copy(update={"router": {"noise_std": 1}})
    (contender,) = contenders(preset, 0)
    assert contender.space["router.top_k"] == IntDistribution(1, 3)
    assert contender.space["router.noise_std"] == FloatDistribution(0, 1)


def test_a_shared_range_of_a_hyper_parameter_is_for_the_routers_that_have_it() -> None:
    lr, top_k = {"low": 1e-3, "high": 1e-2}, {"low": 1, "high": 3}
    preset = preset_of(["random", "dense"], ranges={"train.lr": lr, "router.top_k": top_k})
    random, dense = contenders(preset, 0)
    assert set(random.space) == {"train.lr", "router.top_k"}
    assert set(dense.space) == {"train.lr"}


def test_a_range_that_a_router_declares_wrongly_is_named() -> None:
    @register_router("backwards", family="token_choice")
    class Backwards(Router):
        """Its range ends before it begins."""

        temperature: float = hyper(0.5, "Of it.", tune=Range(2.0, 0.1))

    try:
        with pytest.raises(
            RequestError, match=r"router\.temperature declares no valid range.*low=2\.0"
        ):
            contenders(preset_of(["backwards"]), 0)
    finally:
        ROUTERS.discard("backwards")


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"train.lrr": {"low": 1, "high": 2}}, r"no setting 'train\.lrr'.*'train\.lr'"),
        ({"train.ema": {"low": 0.5, "high": 2.0}}, r"tuning dense: tune\.ranges: train\.ema = 2"),
        ({"train.precision": {"options": ["float32", "f8"]}}, r"train\.precision = 'f8'"),
        ({"train.batch_size": {"low": 0.5, "high": 64}}, "batch_size is a whole number.*0.5 to 64"),
        ({"train.epochs": {"low": 1, "high": 4}}, r"train\.epochs is the same for every router"),
        (
            {"router.affinity_options.initial_scal": {"low": 1, "high": 2}},
            r"none of the affinities .* did you mean 'router\.affinity_options\.initial_scale'",
        ),
        ({"data.name": {"options": ["digits"]}}, r"data\.name is the same for every router"),
        ({"compute.match": {"options": ["steps"]}}, r"compute\.match is the same for every router"),
        (
            {"router.top_k": {"low": 1, "high": 2}},
            r"no.* routers has 'router\.top_k'",
        ),
        ({}, "nothing is left to tune for router 'dense'"),
    ],
)
def test_a_range_that_fits_no_setting_is_refused(ranges: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        contenders(preset_of(["dense"], ranges=ranges), 0)


@pytest.mark.parametrize(
    "where", [{"low": 2.0, "high": 1.0}, {"low": 0.0, "high": 1.0, "log": True}, {"options": []}]
)
def test_a_range_that_is_none_is_refused(where: Any) -> None:
    with pytest.raises(RequestError, match=r"tune\.ranges"):
        preset_of(["dense"], ranges={"train.lr": where})


def test_a_router_of_several_parts_or_with_a_parent_cannot_be_tuned() -> None:
    smoke = load_preset("smoke")
    with pytest.raises(RequestError, match="'mumoe' is in 3 parts of preset 'smoke'"):
        contenders(smoke.model_copy(update={"parts": smoke.parts[2:5]}), 0)
    derived = smoke.parts[6].model_copy(update={"routers": ("softmax_mixture",)})
    with pytest.raises(RequestError, match="'softmax_mixture' starts from 'attentive'"):
        contenders(smoke.model_copy(update={"parts": (smoke.parts[5], derived)}), 0)


# Draws.


def search_of(contender: Contender, pruner: Any = "none", storage: Any = None) -> Search:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = TuneConfig(trials=30, seeds=1, pruner=pruner)
    return Search(storage or InMemoryStorage(), "t", contender, asked)


def drawn(search: Search, trials: int, value: Callable[[dict[str, Any]], float]) -> list[Any]:
    """The settings of so many trials whose accuracy is a function of them."""
    made = []
    for _ in range(trials):
        step = search.next()
        assert step is not None
        search.end(step.number, "done", value(step.params))
        made.append(step.params)
    return made


def by_rate(settings: dict[str, Any]) -> float:
    return 1 - abs(settings["train.lr"] - 2e-3)


def test_a_routers_draws_are_its_own_and_the_seeds() -> None:
    both = contenders(preset_of(["dense", "softmax_token_choice"]), 0)
    (alone,) = contenders(preset_of(["softmax_token_choice"]), 0)
    (other,) = contenders(preset_of(["softmax_token_choice"]), 1)
    storage = InMemoryStorage()
    searches = [search_of(each, storage=storage) for each in both]
    together: list[list[Any]] = [[], []]
    for _ in range(14):  # one after the other, as they may come; TPE learns from the 10th on
        for place, search in enumerate(searches):
            step = search.next()
            assert step is not None
            search.end(step.number, "done", by_rate(step.params))
            together[place].append(step.params)
    assert drawn(search_of(alone), 14, by_rate) == together[1]
    assert drawn(search_of(other), 14, by_rate) != together[1]
    assert len({each["train.lr"] for each in together[1]}) == 14
    # Two routers of one space do not draw the same either.
    assert [each["train.lr"] for each in together[0]] != [each["train.lr"] for each in together[1]]


def test_draws_learn_from_the_trials_before_them() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    up = drawn(search_of(contender), 30, lambda settings: settings["train.lr"])
    down = drawn(search_of(contender), 30, lambda settings: 1 - settings["train.lr"])
    assert up[:10] == down[:10]  # drawn at random
    assert min(each["train.lr"] for each in up[20:]) > max(each["train.lr"] for each in down[20:])


def test_a_draw_is_of_its_arguments_alone() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    search = search_of(contender)
    drawn(search, 12, by_rate)
    pruner = optuna.pruners.NopPruner()
    again = [draw(search.trials, contender.space, 7, pruner, "t/dense") for _ in range(2)]
    assert again[0] == again[1] != draw(search.trials, contender.space, 8, pruner, "t/dense")


def test_a_trial_under_way_goes_on_with_its_settings() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    storage = InMemoryStorage()
    begun = search_of(contender, storage=storage).next()
    later = search_of(contender, storage=storage)
    assert later.next() == begun
    assert begun is not None
    later.end(begun.number, "done", 0.5)
    after = later.next()
    assert after is not None
    assert after.number == 1


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_pruner_stops_what_is_worse_than_most(pruner: str) -> None:
    (contender,) = contenders(preset_of(["dense"], settings={"train.evaluations": 9}), 0)
    search = search_of(contender, pruner)
    stopped = []
    for number in range(16):
        step = search.next()
        assert step is not None
        good = number % 2 == 0
        for evaluation in range(1, 10):
            if search.report(number, evaluation, (0.5 if good else 0.1) + evaluation / 100):
                search.end(number, "pruned", 0.0)
                stopped.append(number)
                break
        else:
            search.end(number, "done", 0.59 if good else 0.19)
    assert any(number % 2 for number in stopped)
    assert not [number for number in stopped if number % 2 == 0 and pruner == "median"]
    assert search.trials[stopped[-1]].state == TrialState.PRUNED


def test_what_was_stopped_is_pruned_also_where_it_was_faster() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    search = search_of(contender, "median")
    step = search.next()
    assert step is not None
    search.report(step.number, 1, 0.25)
    search.stop(step.number, "not promising")
    search.end(step.number, "done", 0.75)
    (trial,) = search.trials
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.25)


def test_no_pruner_stops_nothing() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    search = search_of(contender, "none")
    drawn(search, 8, lambda settings: 0.9)
    step = search.next()
    assert step is not None
    assert not any(search.report(step.number, evaluation, 0.0) for evaluation in range(1, 5))


# Trainings.


def test_a_tuning_trains_each_router_as_often_and_keeps_the_best(tuned, store, tmp_path) -> None:
    result = tuned(["softmax_token_choice", "dense"], 3)
    assert {name: (each.trials, each.done) for name, each in result.items()} == {
        "softmax_token_choice": (3, 3),
        "dense": (3, 3),
    }
    rows = trials_frame(store, "t").set_index("trial")
    assert list(rows["seed"].unique()) == [SEED]  # that no training of a study has
    for name, each in result.items():
        assert each.best == max(value for value in each.values if value is not None)
        assert rows.loc[each.training, "router"] == name
        outcome = read_outcome(tmp_path / "trials" / str(each.training)[:16])
        assert [p.value for p in outcome.history if p.name == "val_top1"][-1] == each.best
        assert len(outcome.snapshots) == 1  # no weights but the last stay
    assert (tmp_path / FILE).exists()
    assert measurements_frame(store, "t").empty  # no suite looked at the test split


def test_a_router_is_tuned_the_same_whoever_else_is(tuned, tmp_path) -> None:
    together = tuned(["dense", "softmax_token_choice"], 2)
    alone = tuned(["softmax_token_choice"], 2, home=tmp_path / "alone")
    assert alone["softmax_token_choice"] == together["softmax_token_choice"]


def test_a_tuning_that_is_over_does_nothing_more_and_more_trials_add_to_it(tuned) -> None:
    first = tuned(["dense"], 2)["dense"]
    events: list[Event] = []
    assert tuned(["dense"], 2, on_event=events.append)["dense"] == first
    assert not [event for event in events if isinstance(event, Started)]
    more = tuned(["dense"], 4)["dense"]
    assert (more.trials, more.values[:2]) == (4, first.values)


def test_the_best_settings_train_on_more_seeds_and_their_mean_decides(tuned, store) -> None:
    """Of 4 settings the best 2 go on, to 3 seeds: 4 + 2 · 2 trainings of each router."""
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


def test_more_settings_and_more_seeds_add_to_a_tuning(tuned) -> None:
    first = tuned(["dense"], 4, seeds=3)["dense"]
    more = tuned(["dense"], 7, seeds=3)["dense"]
    assert more.values[:4] == first.values
    # 3 of 7 settings go on; the 2 that were chosen of 4 keep their places.
    assert more.count_trainings == 7 + 3 * 2
    kept = {n for n, one in enumerate(first.tried) if len(one.values) == 3}
    assert kept < {n for n, one in enumerate(more.tried) if len(one.values) == 3}
    longer = tuned(["dense"], 7, seeds=4)["dense"]
    assert longer.count_trainings == more.count_trainings + 2


def test_a_tuning_that_was_begun_with_one_seed_goes_on_with_more() -> None:
    """What Optuna kept then says nothing of settings and seeds: each trial is a setting."""
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


def test_no_training_on_a_further_seed_is_stopped() -> None:
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
    """A rate of next to nothing leaves the model where it began."""
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


def test_a_worker_is_asked_to_stop_a_training(store, datasets, tmp_path) -> None:
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
    assert len(pruned) <= result.pruned  # its process may have come to its end before it heard
    for trial in pruned["trial"]:  # nothing is kept to go on from
        assert not (tmp_path / "trials" / trial[:16] / "resume.safetensors").exists()
    assert (result.trials, result.done + result.pruned) == (9, 9)
    # What the in-process hands stop, workers stop too.
    home = tmp_path / "here"
    with open_store(home / "bench.db") as other:
        tune(Tuning("t", preset), other, home, datasets, lambda event: None, RunOptions(jobs=0))
        assert search_results(other, "t")["dense"] == result


def test_a_trial_that_fails_counts_as_one(tuned, exploding, store) -> None:
    ranges = {"train.lr": {"low": 1e-3, "high": 1e-2}}

    def on_event(event: Event) -> None:
        if isinstance(event, Started):
            exploding.error = ValueError("boom") if event.task.number == 2 else None

    result = tuned(["exploding"], 3, ranges=ranges, on_event=on_event)["exploding"]
    assert (result.trials, result.done, result.failed) == (3, 2, 1)
    assert result.values[1] is None
    assert list(trials_frame(store, "t")["status"]) == ["done", "failed", "done"]


def test_settings_that_do_not_fit_each_other_cost_their_trial(tuned, store) -> None:
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


def test_what_was_interrupted_goes_on(tuned, tmp_path) -> None:
    whole = tuned(["dense"], 3, home=tmp_path / "whole")

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and event.task.number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert tuned(["dense"], 3, on_event=on_event)["dense"].trials == 1
    assert tuned(["dense"], 3) == whole


def test_what_was_to_stop_when_it_was_killed_stays_stopped(tuned, store, monkeypatch) -> None:
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
        # The process ends after the decision and before anything of it is written down.
        patched.setattr("bench.execute.jobs.JobStore.prune_training", killed)
        with pytest.raises(Killed):
            tuned(["dense"], 9, pruner="median", **asked)
    events: list[Event] = []
    result = tuned(["dense"], 9, pruner="median", on_event=events.append, **asked)["dense"]
    first = min(event.task.number for event in events if isinstance(event, Started))
    row = trials_frame(store, "t").iloc[first - 2]
    assert row["status"] == "pruned"
    assert result.pruned > 0


def test_a_tuning_goes_on_only_as_it_was_begun(tuned) -> None:
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


def test_tunings_at_once_share_the_trainings(tuned, store, datasets, tmp_path) -> None:
    """Two runs with workers of their own: the result is that of one alone."""
    routers = ["soft_moe", "dense"]
    preset, starts = preset_of(routers, 4, seeds=2), list[str]()

    def on_event(event: Event) -> None:
        if isinstance(event, Started):
            starts.append(f"{event.task.name} {event.task.number}")

    def work() -> None:
        with open_store(tmp_path / "bench.db") as own:
            tune(Tuning("t", preset), own, tmp_path, Datasets(), on_event, RunOptions(jobs=1))

    assert prepare_tuning(Tuning("t", preset), store, tmp_path, datasets, RunOptions(jobs=1)) == 2
    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(work) for _ in range(2)]:
            future.result()
    assert len(starts) == len(set(starts)) == len(trials_frame(store, "t"))
    together = search_results(store, "t")
    assert together == tuned(routers, 4, seeds=2, home=tmp_path / "alone")


# Its use.


def test_a_run_takes_what_was_found_for_each_router(tuned, store, datasets) -> None:
    result = tuned(["softmax_token_choice", "dense"], 2)
    whole = load_preset("smoke").model_copy(update={"parts": ()})
    asked = make_request(whole, routers=["softmax_token_choice", "dense"], seeds=2, settings=QUICK)
    request = with_tuned(asked, store, "t")
    plan = make_plan(request, datasets)
    assert len(plan.trials) == 4
    for planned in plan.trials:
        spec, settings = planned.spec, result[planned.spec.router.name].settings
        assert spec.found == tuple(sorted(settings))
        assert spec.train.lr == settings["train.lr"]
        options = {f"router.{name}": value for name, value in spec.router.options.items()}
        assert {**options, **settings} == {**settings, **options}
        assert planned.label == spec.router.name  # found values set nothing apart
    record = request.record()["tuned"]["dense"]
    assert record["settings"] == result["dense"].settings
    assert (record["trials"], list(record["values"])) == (2, list(result["dense"].values))


def test_a_run_refuses_what_was_not_tuned_or_is_given_twice(tuned, store) -> None:
    tuned(["dense"], 1)
    whole = load_preset("smoke").model_copy(update={"parts": ()})
    with pytest.raises(RequestError, match=r"no result for random; run `python bench\.py tune"):
        with_tuned(make_request(whole, routers=["dense", "random"]), store, "t")
    dense = make_request(whole, routers=["dense"])
    with pytest.raises(RequestError, match=r"train\.lr is set, but was also tuned for dense"):
        with_tuned(dense, store, "t", ["train.lr"])
    swept = replace(dense, preset=dense.preset.model_copy(update={"sweep": {"train.lr": (1, 2)}}))
    with pytest.raises(RequestError, match=r"train\.lr is set, but was also tuned for dense"):
        with_tuned(swept, store, "t")


def setting_result(*values: float) -> SettingResult:
    trainings = tuple(str(seed) for seed in range(len(values)))
    return SettingResult({"train.lr": 0.1}, "done", values, trainings, None, 0.0)


@pytest.mark.parametrize(
    ("tried", "between"),
    [
        ([(0.9,), (0.8,), (0.7,), (0.6,)], False),
        ([(0.9, 0.5), (0.8,), (0.7,), (0.6,)], True),
        ([(0.9, 0.5), (0.8, 0.8), (0.7,), (0.6,)], False),
        ([(0.9, 0.5, 0.5), (0.8, 0.8), (0.7,), (0.6,)], True),
    ],
)
def test_a_tuning_that_was_interrupted_between_its_rungs_is_known(tried, between) -> None:
    """Otherwise the only setting on a second seed would win, whatever it reached there."""
    results = tuple(setting_result(*values) for values in tried)
    values = tuple(each.values[0] for each in results)
    result = SearchResult(4, 4, 0, 0, values, 0.9, 1, {}, None, (), results, None, 0.0)
    assert is_between_rungs(result) == between


def test_a_run_refuses_a_tuning_that_was_interrupted(tuned, store, monkeypatch) -> None:
    tuned(["dense"], 1)
    monkeypatch.setattr(best_settings, "is_between_rungs", lambda result: True)
    whole = load_preset("smoke").model_copy(update={"parts": ()})
    with pytest.raises(RequestError, match=r"tuning 't' of dense was interrupted .*again"):
        with_tuned(make_request(whole, routers=["dense"]), store, "t")


def test_a_run_before_any_tuning_is_told_the_command(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "--tuned", "--preset", "smoke", "--home", str(tmp_path / "new")])
    assert "nothing was tuned yet" in (printed := capsys.readouterr().err)
    assert "`python bench.py tune`" in printed
    assert not (tmp_path / "new").exists()


def test_what_is_found_for_one_router_changes_no_other() -> None:
    preset = preset_of(["dense", "softmax_token_choice"])
    changed = preset.model_copy(update={"tuned": {"dense": {"train.lr": 0.5}}})
    (dense, *_), (before, *_) = trial_specs(changed), trial_specs(preset)
    assert (dense.train.lr, dense.found) == (0.5, ("train.lr",))
    assert dense.model_copy(update={"train": before.train, "found": ()}) == before
    assert trial_specs(changed)[1] == trial_specs(preset)[1]


# Whole commands.


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


def test_tune_and_run_tuned_as_commands(tmp_path, capsys) -> None:
    home = ("--home", str(tmp_path), "--jobs", "0")
    ours = ("--preset", str(own_preset(tmp_path)))
    assert bench("run", *ours, *home, "--tuned") == 2
    assert bench("tune", *ours, *home) == 0
    assert bench("tune", *ours, *home, "--routers", "dense", "--trials", "3") == 0
    printed = capsys.readouterr().out
    assert "Tuning own-tuning: the best mean accuracy on the validation split" in printed
    assert bench("run", *ours, *home, "--tuned") == 0
    report = (tmp_path / "reports" / "own-tuned" / "report.md").read_text()
    assert "Tuning was not equal: 5 for Dense; 4 for Softmax Token Choice (trainings)" in report
    assert bench("run", *ours, *home, "--tuned", "--set", "train.lr=0.1") == 2
    assert "train.lr is set, but was also tuned" in capsys.readouterr().err
    # What is shown where no study is named is no tuning.
    assert bench("tune", *ours, *home, "--trials", "3") == 0
    capsys.readouterr()
    assert bench("status", "--home", str(tmp_path)) == 0
    assert capsys.readouterr().out.startswith("Study own-tuned")
    assert bench("status", "--home", str(tmp_path), "--study", "own-tuning") == 0
    assert capsys.readouterr().out.startswith("Study own-tuning")


def own_preset(folder: Path) -> Path:
    file = folder / "own.yaml"
    folder.mkdir(exist_ok=True)
    file.write_text(
        "description: Small.\nrouters: [softmax_token_choice, dense]\nseeds: 1\n"
        "model: {options: {img_size: 8, patch_size: 2, embed_dim: 16, depth: 2, num_heads: 2}}\n"
        "experts: {num_experts: 4}\ndata: {name: digits}\n"
        "train: {epochs: 0.2, evaluations: 2}\nsuites: {accuracy: {}}\n"
        "tune: {trials: 2, seeds: 2}\n"
    )
    return file


def asked_of(home: Path) -> list[str]:
    """A tuning in workers."""
    asked = ["tune", "--preset", str(own_preset(home)), "--set", "train.epochs=1"]
    return [*asked, "--home", str(home), "--jobs", "2", "--save-every", "0"]


def test_a_tuning_that_is_killed_ends_as_one_that_is_not(tmp_path, capsys) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert bench(*asked_of(whole)) == 0
    process = subprocess.Popen(
        [sys.executable, "bench.py", *asked_of(killed)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 120
    assert process.stdout is not None
    for line in process.stdout:  # in the middle of a router's first training on its second seed
        assert time.monotonic() < end
        if line.startswith(("3/8", "7/8")) and "training" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert bench(*asked_of(killed)) == 0
    assert capsys.readouterr().err == ""
    with open_store(whole / "bench.db") as first, open_store(killed / "bench.db") as second:
        assert search_results(first, "own-tuning") == search_results(second, "own-tuning")
