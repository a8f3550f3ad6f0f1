"""Draws of settings: what they depend on, and which trials are pruned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from bench.config.schema import TuneConfig
from bench.tune.search import Search, draw
from bench.tune.space import Contender, contenders
from tests.bench.tune.conftest import preset_of

pytestmark = pytest.mark.slow


def search_of(contender: Contender, pruner: Any = "none", storage: Any = None) -> Search:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = TuneConfig(trials=30, seeds=1, pruner=pruner)
    return Search(storage or InMemoryStorage(), "t", contender, asked)


def drawn(search: Search, trials: int, value: Callable[[dict[str, Any]], float]) -> list[Any]:
    """Return the settings of that many trials, whose accuracy is a function of them."""
    made = []
    for _ in range(trials):
        step = search.next()
        assert step is not None
        search.end(step.number, "done", value(step.params))
        made.append(step.params)
    return made


def by_rate(settings: dict[str, Any]) -> float:
    return 1 - abs(settings["train.lr"] - 2e-3)


def test_draws_depend_only_on_the_router_and_the_seed() -> None:
    both = contenders(preset_of(["dense", "softmax_token_choice"]), 0)
    (alone,) = contenders(preset_of(["softmax_token_choice"]), 0)
    (other,) = contenders(preset_of(["softmax_token_choice"]), 1)
    storage = InMemoryStorage()
    searches = [search_of(each, storage=storage) for each in both]
    together: list[list[Any]] = [[], []]
    for _ in range(14):  # one after the other, in possible order; TPE learns from the 10th on
        for place, search in enumerate(searches):
            step = search.next()
            assert step is not None
            search.end(step.number, "done", by_rate(step.params))
            together[place].append(step.params)
    assert drawn(search_of(alone), 14, by_rate) == together[1]
    assert drawn(search_of(other), 14, by_rate) != together[1]
    assert len({each["train.lr"] for each in together[1]}) == 14
    # Two routers with the same search space do not draw the same either.
    assert [each["train.lr"] for each in together[0]] != [each["train.lr"] for each in together[1]]


def test_a_trial_that_another_run_has_ended_meanwhile_is_left_as_it_is() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    storage = InMemoryStorage()
    one, other = (search_of(contender, storage=storage) for _ in range(2))
    step = one.next()
    assert step is not None
    other.set_training(step.number, "f1")
    other.end(step.number, "done", 0.5)
    one.set_training(step.number, "f1")
    one.end(step.number, "done", 0.5)
    (trial,) = one.trials
    assert (trial.value, trial.user_attrs["training"]) == (0.5, "f1")


def test_draws_learn_from_the_trials_before_them() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    up = drawn(search_of(contender), 30, lambda settings: settings["train.lr"])
    down = drawn(search_of(contender), 30, lambda settings: 1 - settings["train.lr"])
    assert up[:10] == down[:10]  # drawn at random
    assert min(each["train.lr"] for each in up[20:]) > max(each["train.lr"] for each in down[20:])


def test_a_draw_depends_only_on_its_arguments() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    search = search_of(contender)
    drawn(search, 12, by_rate)
    pruner = optuna.pruners.NopPruner()
    again = [draw(search.trials, contender.space, 7, pruner, "t/dense") for _ in range(2)]
    assert again[0] == again[1] != draw(search.trials, contender.space, 8, pruner, "t/dense")


def test_a_running_trial_continues_with_its_settings() -> None:
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
def test_a_pruner_stops_trials_that_are_worse_than_most(pruner: str) -> None:
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


def test_a_stopped_trial_is_pruned_even_if_it_finished_first() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    search = search_of(contender, "median")
    step = search.next()
    assert step is not None
    search.report(step.number, 1, 0.25)
    search.stop(step.number, "not promising")
    search.end(step.number, "done", 0.75)
    (trial,) = search.trials
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.25)


def test_without_a_pruner_nothing_is_stopped() -> None:
    (contender,) = contenders(preset_of(["dense"]), 0)
    search = search_of(contender, "none")
    drawn(search, 8, lambda settings: 0.9)
    step = search.next()
    assert step is not None
    assert not any(search.report(step.number, evaluation, 0.0) for evaluation in range(1, 5))
