"""When a plan would be done: paces measured in small, and jobs spread over workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import pytest
import torch

from bench.config import RouterConfig
from bench.data import Dataset, Split
from bench.datasets import Datasets
from bench.execute.jobs import Job, jobs_of
from bench.forecast import forecast, here, suites, workers
from bench.forecast.clock import Clock
from bench.forecast.cost import Cost, Errand, cost_of
from bench.forecast.errands import Results
from bench.forecast.forecast import AROUND, MOST
from bench.forecast.part import part_of
from bench.forecast.training import Pace
from bench.makespan import Load, makespan
from bench.plan import Plan, PlannedSuite, make_plan, make_request
from bench.presets import load_preset
from bench.reuse import Decision
from bench.specs import condition_of
from suites import Metric

CPU = torch.device("cpu")


def test_a_worker_that_is_free_takes_the_next_job() -> None:
    loads = [Load("a", 3), Load("b", 2), Load("c", 2), Load("d", 1.5)]
    assert makespan(loads, 1) == 8.5
    assert makespan(loads, 2) == 4.5  # a then d, b then c
    assert makespan(loads, 9) == 3
    assert makespan([], 2) == 0


def test_a_child_waits_for_its_parent_and_others_go_first() -> None:
    loads = [Load("parent", 3), Load("child", 2, after="parent"), Load("other", 1)]
    assert makespan(loads, 2) == 5  # other at 0, child at 3
    assert makespan([*loads, Load("more", 4)], 2) == 5  # other and more beside them
    assert makespan([Load("child", 2, after="done long ago")], 2) == 2


def test_a_training_is_steps_of_which_some_are_counted_and_followed_by_an_evaluation() -> None:
    pace = Pace(start=2.0, steps=10, step=0.5, counted=1.0, image=0.01)
    assert pace.whole(evaluations=4, images=100) == 2 + 6 * 0.5 + 4 * (1 + 1)
    assert pace.whole(evaluations=99, images=100) == 2 + 10 * (1 + 1)


def test_a_part_of_a_data_set_holds_whole_batches_of_the_first_images(
    tiny_dataset: Dataset,
) -> None:
    test = replace(tiny_dataset.splits["test"], attribute=torch.arange(32))
    dataset = replace(tiny_dataset, splits={**tiny_dataset.splits, "test": test})
    part = part_of(dataset, share=0.3, batch_size=4)
    assert {name: len(split) for name, split in part.splits.items()} == {
        **{"train": 96, "val": 12, "test": 12}
    }
    images, labels = zip(*part.splits["test"].batches(8), strict=True)
    assert torch.equal(torch.cat(images), test.fetch(torch.arange(12)))
    assert torch.equal(torch.cat(labels), test.labels[:12])
    assert part.splits["test"].attribute is not None
    assert part.splits["test"].attribute.tolist() == list(range(12))
    assert len(part_of(dataset, share=1.0, batch_size=5).splits["val"]) == 32


class FakeClock(Clock):
    """Is set by hand."""

    time = 0.0

    def now(self) -> float:
        return self.time


@dataclass
class FakeSuite:
    """Takes `fixed` seconds, and `image` for each image that it is given."""

    clock: FakeClock
    fixed: float
    image: float
    seconds: float = 0.0
    max_load: float | None = 0.25

    def applies_to(self, subject: Any) -> None:
        return None

    def measure(self, subject: Any) -> Iterator[Metric]:
        self.clock.time += self.fixed + self.image * len(subject.splits["test"])
        for name in ("forward", "train"):
            self.clock.time += self.seconds if self.max_load is None else inf
            yield Metric(f"{name}_repeats", 7)


@pytest.fixture
def large(tiny_dataset: Dataset) -> Dataset:
    """With 8,000 images to validate on and as many to test on."""
    split = Split(torch.zeros(8000, 1, 8, 8, dtype=torch.uint8), torch.zeros(8000).long())
    return replace(tiny_dataset, splits={"train": split, "val": split, "test": split})


@pytest.mark.parametrize(
    ("fixed", "image", "expected", "spent"),
    [
        (0.1, 0.0001, 0.9, 0.116 + 0.2),  # 160 and 1,000 of 8,000 images
        (1.0, 0.0001, 1.8, 1.016 + 1.064),  # 160 and 640, which take `LIMIT` at most
        (0.0, 0.02, 160.0, 3.2 + 5.6),  # 160 and 280
    ],
)
def test_a_suite_is_extrapolated_from_parts_of_the_images(
    large: Dataset, monkeypatch, fixed: float, image: float, expected: float, spent: float
) -> None:
    clock = FakeClock(CPU)
    monkeypatch.setattr(
        suites, "build_suite", lambda name, max_load=None: FakeSuite(clock, fixed, image, 0, None)
    )
    found = suites.seconds_on_trial(
        [PlannedSuite("fake", {}, "")],
        lambda dataset: dataset,
        large,
        batch_size=40,
        image=suites.PASS / 1000,  # a pass over 1,000 images is what one may take
        clock=clock,
    )
    assert found == {"fake": pytest.approx(expected)}
    assert clock.time == pytest.approx(spent)


def test_a_suite_of_layers_repeats_for_less_time(large: Dataset, monkeypatch) -> None:
    clock = FakeClock(CPU)
    monkeypatch.setattr(
        suites, "build_suite", lambda name, **options: FakeSuite(clock, 3.0, 0.0, **options)
    )
    planned = PlannedSuite("fake", {"seconds": 10.0, "max_load": 0.25}, "")
    assert suites.seconds_on_layer(planned, large, clock) == pytest.approx(3 + 2 * 10)
    assert clock.time == pytest.approx(3 + 2 * suites.REPEATS)


@pytest.fixture(scope="module")
def datasets() -> Datasets:
    return Datasets()


@pytest.fixture(scope="module")
def plan(datasets: Datasets) -> Plan:
    """Two seeds of two conditions, the second derived from the first, and their layers."""
    part: dict[str, Any] = {"train.epochs": 0.2, "train.losses": {}, "data.name": "digits"}
    preset = load_preset("smoke").model_copy(update={"parts": (), "routers": ("attentive",)})
    parts = (
        {"routers": ["attentive"]},
        {"routers": ["softmax_mixture"], "parent": {"router": "attentive", "transform": "distill"}},
    )
    preset = type(preset).model_validate({**preset.model_dump(), "parts": parts})
    asked = {**part, "suites.throughput.seconds": 0, "suites.throughput.min_repeats": 1}
    names = ["accuracy", "balance", "throughput"]
    return make_plan(make_request(preset, suites=names, seeds=2, settings=asked), datasets)


def jobs(plan: Plan, reused: int = 0) -> list[Job]:
    """Its jobs; so many trials at the beginning are done already, but for `balance`."""
    again = [Decision(True, "new", each.suites) for each in plan.trials[reused:]]
    done = [Decision(False, "same", each.suites[1:]) for each in plan.trials[:reused]]
    return list(jobs_of(plan, [*done, *again], [each.suites for each in plan.layers]))


def run_for(costs: Mapping[str, Cost | str], asked: list[str]) -> Any:
    """Errands that cost what is told for a router, or for "layer"."""

    def run(errands: Mapping[str, Errand]) -> Results:
        for name, errand in errands.items():
            asked.append("layer" if errand.bare else errand.spec.router.name)
            yield name, costs[asked[-1]]

    return run


def test_a_plan_ends_when_its_trials_then_its_layers_are_done(plan: Plan) -> None:
    asked: list[str] = []
    costs = {
        "attentive": Cost(10.0, {"accuracy": 1.0, "balance": 2.0}),
        "softmax_mixture": Cost(4.0, {"accuracy": 1.0, "balance": 0.0}),
        "layer": Cost(0.0, {"throughput": 6.0}),
    }
    found = forecast(jobs(plan), ["cpu", "cpu"], run_for(costs, asked), 2.0, lambda _: None)
    assert asked == ["attentive", "softmax_mixture", "layer"]  # each condition once
    # Both parents side by side, 13 s, then both children, 5 s; the layers have the CPU alone.
    assert found.training + found.measuring == pytest.approx(18)
    assert found.training == pytest.approx(18 * 28 / 36)
    assert found.timings == 12
    assert found.whole == pytest.approx(18 + 12 + 2 * AROUND)
    trained = {condition_of(each.spec): each.spec.router.name for each in plan.trials}
    assert {trained[key]: value for key, value in found.trainings.items()} == {
        **{"attentive": 10.0, "softmax_mixture": 4.0}
    }
    # The parent of seed 0 is there, and `balance` alone has to measure it.
    found = forecast(jobs(plan, reused=1), ["cpu"], run_for(costs, asked), 2.0, lambda _: None)
    assert found.training + found.measuring == pytest.approx(2 + 5 + 13 + 5)


def test_what_cannot_be_measured_is_told_and_costs_nothing(plan: Plan) -> None:
    costs = {
        "attentive": "RuntimeError: no",
        "softmax_mixture": Cost(4.0, {"accuracy": 1.0}),
        "layer": "OSError: neither",
    }
    found = forecast(jobs(plan), ["cpu"], run_for(costs, []), 2.0, lambda _: None)
    assert found.training + found.measuring == pytest.approx(2 * 5)
    assert found.unknown == {
        plan.trials[0].label: "RuntimeError: no",
        plan.layers[0].label: "OSError: neither",
    }


def test_of_very_many_conditions_one_for_each_router_and_size_is_measured(datasets) -> None:
    rates = tuple(0.001 * (number + 1) for number in range(MOST))
    request = make_request(
        load_preset("smoke").model_copy(update={"parts": ()}),
        routers=["dense", "random"],
        suites=["accuracy"],
        sweep={"train.lr": rates},
    )
    asked: list[str] = []
    many = make_plan(request, datasets)
    costs = {"dense": Cost(1.0, {}), "random": Cost(2.0, {})}
    found = forecast(jobs(many), ["cpu"], run_for(costs, asked), 2.0, lambda _: None)
    assert asked == ["dense", "random"]
    assert found.training == pytest.approx(MOST * 3)


def test_real_conditions_have_costs(plan: Plan, datasets: Datasets) -> None:
    for each in plan.trials[:2]:
        cost = cost_of(Errand(each.spec, each.suites), datasets, CPU)
        assert cost.suites.keys() == {"accuracy", "balance"}
        assert all(isfinite(s) and s > 0 for s in (cost.training, *cost.suites.values()))
    layer = plan.layers[0]
    cost = cost_of(Errand(layer.spec, layer.suites, bare=True), datasets, CPU)
    assert cost.training == 0
    assert 0 < cost.suites["throughput"] < inf


def test_errands_run_in_processes_and_one_that_fails_says_why(plan: Plan, datasets) -> None:
    good = Errand(plan.trials[0].spec, ())
    nobody = good.spec.model_copy(update={"router": RouterConfig(name="nobody")})
    bad = Errand(nobody, ())
    with workers(["cpu", "cpu"], datasets, ()) as run:
        found = dict(run({"good": good, "bad": bad}))
    assert isinstance(found["good"], Cost)
    assert found["good"].training > 0
    assert "'nobody'" in str(found["bad"])
    assert "'nobody'" in str(dict(here(datasets, CPU)({"bad": bad}))["bad"])
