"""Runs: results become rows at once, a failure costs only itself, nothing is done twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select

import bench.execute.runner as running
from bench.config.presets import load_preset
from bench.config.schema import DataConfig
from bench.data.registry import Datasets
from bench.execute import training, worker
from bench.execute.context import RunOptions
from bench.execute.events import (
    Begun,
    Ended,
    Event,
    Measured,
    Measuring,
    Progress,
    Reused,
    RunSummary,
    Started,
    Waiting,
)
from bench.plan.plan import Plan, make_plan, make_request
from bench.plan.reuse import Retry
from bench.train.outcome import read_outcome, write_outcome
from results import Store, open_store
from results.models import AttemptRow, MeasurementRow
from routers.errors import BenchError, RequestError
from suites import SUITES, Metric, MetricDef, Suite, register_suite

QUICK = {
    "train.epochs": 0.2,
    "suites.throughput.seconds": 0,
    "suites.throughput.min_repeats": 1,
    "suites.throughput.model_batch": 1,
}


@pytest.fixture
def run(tmp_path: Path, store: Store, datasets: Datasets) -> Callable[..., RunSummary]:
    """Run a shortened preset smoke: `run(["dense"], suites=[…], on_event=…)`."""

    def go(
        routers: list[str],
        *,
        on_event: Callable[[Event], None] = lambda event: None,
        retry: Retry = None,
        **asked: Any,
    ) -> RunSummary:
        plan = plan_of(datasets, routers, **asked)
        return running.run_plan(
            plan, store, tmp_path, datasets, on_event, RunOptions(jobs=0, retry=retry)
        )

    return go


def plan_of(datasets: Datasets, routers: list[str], **asked: Any) -> Plan:
    suites = asked.pop("suites", ["accuracy", "balance"])
    settings = QUICK | asked.pop("settings", {})
    if "throughput" not in suites:
        settings = {path: value for path, value in settings.items() if "throughput" not in path}
    request = make_request(
        load_preset("smoke"), routers=routers, suites=suites, settings=settings, **asked
    )
    return make_plan(request, datasets)


def attempts(store: Store) -> list[AttemptRow]:
    with store.reading() as session:
        return list(session.scalars(select(AttemptRow).order_by(AttemptRow.id)))


def measurements(store: Store) -> list[tuple[str, str]]:
    with store.reading() as session:
        rows = session.scalars(select(MeasurementRow).order_by(MeasurementRow.id))
        return [(row.suite, row.status) for row in rows]


@pytest.fixture
def failing_suite() -> Iterator[str]:
    @register_suite("failing")
    class Failing(Suite[Any]):
        """A router that fails half-way."""

        on = "trial"
        main_metric = "half"
        metrics = (MetricDef("half", "", None, "Half."),)

        def measure(self, subject: Any) -> Iterator[Metric]:
            yield Metric("half", 0.5)
            raise ValueError("no second half")

    yield "failing"
    SUITES.discard("failing")


def test_a_run_trains_and_measures_and_a_second_run_does_nothing(run, store, monkeypatch) -> None:
    first = run(["softmax_token_choice", "dense"], suites=["accuracy", "balance", "throughput"])
    assert (first.trained, first.reused, first.failures) == (2, 0, [])
    assert (first.measured, first.skipped) == (5, 1)
    rows = attempts(store)
    assert [row.status for row in rows] == ["done", "done"]
    assert all(row.flops and row.steps and row.checkpoint_sha256 for row in rows)

    def never(*_: object) -> None:
        raise AssertionError("there is nothing to do")

    monkeypatch.setattr(training, "train_trial", never)
    monkeypatch.setattr(worker, "LayerOfTrial", never)
    monkeypatch.setattr(training, "TrainedTrial", never)
    suites = ["accuracy", "balance", "throughput"]
    second = run(["softmax_token_choice", "dense"], suites=suites)
    assert second == RunSummary(reused=2)
    assert len(attempts(store)) == 2
    assert len(measurements(store)) == 6


def test_a_suite_requested_later_is_measured_without_training(run, store) -> None:
    run(["soft_moe"], suites=["accuracy"])
    later = run(["soft_moe"], suites=["accuracy", "entropy"])
    assert (later.trained, later.reused, later.measured) == (0, 1, 1)
    assert measurements(store) == [("accuracy", "done"), ("entropy", "done")]


@pytest.mark.slow
def test_weights_unknown_to_the_database_are_not_measured(run, store, tmp_path) -> None:
    run(["dense"], suites=["accuracy"])
    (row,) = attempts(store)
    folder = (tmp_path / row.checkpoint).parent
    outcome = read_outcome(folder)
    final = outcome.snapshots[-1].model_copy(update={"sha256": "0" * 64})
    write_outcome(outcome.model_copy(update={"snapshots": [*outcome.snapshots[:-1], final]}))
    (failure,) = run(["dense"], suites=["entropy"]).failures
    for part in (folder.name[:10], row.checkpoint_sha256, "0" * 64, "to train the trial again"):
        assert part in failure.error
    shutil.rmtree(folder)
    again = run(["dense"], suites=["entropy"])
    assert (again.trained, again.failures) == (1, [])


@pytest.mark.slow
def test_suites_measure_what_the_run_has_trained_though_a_merge_adds_an_attempt(
    run, store, monkeypatch
) -> None:
    train = worker.train_here

    def train_and_merge(assignment, context):
        outcome = train(assignment, context)
        with store.writing() as session:
            own = session.get_one(AttemptRow, assignment.attempt)
            copied = {name: getattr(own, name) for name in ("trial_id", "machine_id", "code_id")}
            session.add(AttemptRow(**copied, status="failed", started_at=own.started_at))
        return outcome

    monkeypatch.setattr(worker, "train_here", train_and_merge)
    assert run(["dense"], suites=["accuracy"]).measured == 1
    own, merged = attempts(store)
    assert (own.status, merged.status) == ("done", "failed")
    assert measurements(store) == [("accuracy", "done")]


def test_bare_layers_are_measured_without_any_training(run, store) -> None:
    tally = run(["soft_moe", "dense"], suites=["throughput"])
    assert (tally.trained, tally.measured) == (0, 2)
    assert attempts(store) == []


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("boom\nand more"), "failed", "ValueError: boom and more"),
        (BenchError("of our own"), "failed", "of our own"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (
            torch.OutOfMemoryError("full"),
            "out_of_memory",
            "OutOfMemoryError: full; --set train.micro_batches=2 trains each batch in 2 parts",
        ),
    ],
)
@pytest.mark.slow
def test_a_failure_is_stored_as_a_row_and_other_trials_go_on(
    run, store, exploding, error, status, message
) -> None:
    exploding.error = error
    tally = run(["exploding", "dense"])
    failed, done = attempts(store)
    assert (failed.status, done.status) == (status, "done")
    assert failed.error == message
    assert "raise Fuse.error" in failed.traceback
    assert [(f.task.name, f.what, f.error) for f in tally.failures] == [
        ("exploding", "training", message)
    ]
    assert (tally.trained, tally.measured) == (1, 1)


def test_an_out_of_memory_error_suggests_more_micro_batches_or_says_why_not(
    run, store, exploding
) -> None:
    exploding.error = MemoryError()
    for settings, remedy in (
        ({}, "--set train.micro_batches=2 trains each batch in 2 parts"),
        ({"train.micro_batches": 2}, "--set train.micro_batches=4 trains each batch in 4 parts"),
        (
            {"model.groups": "batch"},
            "train.micro_batches = 2 would change what is computed: model.groups = 'batch' routes "
            "tokens of several images together",
        ),
    ):
        (failure,) = run(["exploding"], settings=settings).failures
        assert (failure.status, failure.error) == ("out_of_memory", f"MemoryError; {remedy}")


def test_micro_batches_make_another_trial(run, store) -> None:
    assert run(["soft_moe"], settings={}).trained == 1
    assert run(["soft_moe"], settings={"train.micro_batches": 2}).trained == 1
    whole, parts = attempts(store)
    assert (whole.steps, whole.flops) == (parts.steps, parts.flops)
    assert whole.checkpoint_sha256 != parts.checkpoint_sha256


def test_a_failed_trial_is_retried_on_request(run, store, exploding) -> None:
    exploding.error = ValueError("boom")
    run(["exploding"])
    exploding.error = None
    again = run(["exploding"])
    assert (again.trained, again.failures[0].error) == (
        0,
        "it failed: ValueError: boom; --retry failed tries again",
    )
    assert run(["exploding"], retry="failed").trained == 1
    assert [row.status for row in attempts(store)] == ["failed", "done"]


def test_an_interrupted_trial_is_not_done(run, store, exploding) -> None:
    exploding.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(["dense", "exploding", "soft_moe"])
    assert [(row.status, row.error) for row in attempts(store)] == [
        ("done", None),
        ("interrupted", "stopped by Ctrl-C"),
    ]
    exploding.error = None
    tally = run(["dense", "exploding", "soft_moe"])
    assert (tally.reused, tally.trained) == (1, 2)


def test_a_diverged_trial_is_a_failure_and_is_not_retried(run, store) -> None:
    settings = {"train.lr": 1e30, "train.clip_norm": None}
    first = run(["dense"], settings=settings)
    (row,) = attempts(store)
    assert row.status == "diverged"
    assert row.error
    second = run(["dense"], settings=settings)
    assert len(attempts(store)) == 1
    assert [f.status for f in first.failures] == [f.status for f in second.failures] == ["diverged"]


def test_a_failing_suite_loses_only_its_own_measurement(run, store, failing_suite) -> None:
    tally = run(["soft_moe"], suites=["failing", "balance"])
    assert measurements(store) == [("failing", "failed"), ("balance", "done")]
    (failure,) = tally.failures
    assert (failure.what, failure.error) == ("failing", "ValueError: no second half")
    run(["soft_moe"], suites=["failing", "balance"])
    assert measurements(store)[2:] == [("failing", "failed")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"router.top_k": 9}, "softmax_token_choice: top_k = 9"),
        ({"model.options.colour": 3}, "colour"),
        ({"model.name": "vit_tiny_patch16_223"}, "vit_tiny_patch16_223"),
        ({"model.layers": [7]}, "block 7"),
        ({"train.micro_batches": 100}, "train.batch_size = 64 has no 100 parts"),
        (
            {"train.micro_batches": 2, "train.losses.sample_similarity": 0.1},
            "micro_batches = 2 would change what is computed: the loss 'sample_similarity'",
        ),
    ],
)
def test_nothing_starts_if_a_model_cannot_be_built(run, store, settings, message) -> None:
    with pytest.raises(RequestError, match=message):
        run(["softmax_token_choice"], settings=settings)
    assert store.studies() == []


@pytest.mark.parametrize(
    ("router", "settings", "message"),
    [
        ("softmax_token_choice", {"train.losses.load": 0.1}, "loss 'load' needs noise"),
        ("softmax_expert_choice", {"train.losses.gshard": 0.1}, "loss 'gshard' has no meaning"),
        ("soft_moe", {"train.losses.load": 0.1}, "loss 'load' has no meaning for a SoftRouting"),
    ],
)
def test_nothing_starts_if_a_loss_does_not_fit_the_router(
    run, store, router, settings, message
) -> None:
    state = torch.get_rng_state()
    with pytest.raises(RequestError, match=f"^{router}.*: {message}"):
        run([router, "dense"], settings=settings)
    assert store.studies() == []
    assert torch.equal(torch.get_rng_state(), state)


def test_a_noisy_router_may_have_the_load_loss(run) -> None:
    settings = {"train.losses.load": 0.1, "router.noise_std": 0.25}
    assert run(["softmax_token_choice"], settings=settings).trained == 1


def test_nothing_starts_if_groups_do_not_fit_a_batch(run, store, datasets) -> None:
    """8 x 8 digits have 16 tokens; the last batch of a split is smaller than the others."""
    digits = datasets.get(DataConfig(name="digits"))
    last = len(digits.splits["test"]) % 64
    assert last
    with pytest.raises(RequestError) as refused:
        run(["softmax_token_choice"], settings={"model.groups": 1024})
    message = str(refused.value)
    assert "a training batch has 64 x 16 = 1024" in message
    assert f"the last batch of test has {last} x 16 = {last * 16}" in message
    nearest = int(message.split()[-1])
    assert all(images * 16 % nearest == 0 for images in (64, last))
    assert store.studies() == []
    tally = run(["softmax_token_choice", "dense"], settings={"model.groups": nearest})
    assert (tally.trained, tally.failures) == (2, [])


def test_events_arrive_in_order(run) -> None:
    events: list[Event] = []
    run(["softmax_token_choice"], suites=["balance", "throughput"], on_event=events.append)
    # Others may be training on this machine, in which case the timing waits for them.
    kinds = [type(event) for event in events if not isinstance(event, (Progress, Waiting))]
    assert kinds == [Begun, Started, Ended, Measuring, Measured, Measuring, Measured]
    steps = [event for event in events if isinstance(event, Progress)]
    assert steps[-1].step == steps[-1].steps
    assert isinstance(events[1], Started)
    assert events[1].task.seed == 0
    assert events[-1].task.seed is None
    events.clear()
    run(["softmax_token_choice"], suites=["balance", "throughput"], on_event=events.append)
    assert [type(event) for event in events] == [Begun, Reused]


def test_the_same_seed_gives_the_same_bits(run, store, tmp_path, datasets) -> None:
    run(["soft_moe"])
    other = open_store(tmp_path / "other" / "bench.db")
    plan = plan_of(datasets, ["soft_moe"])
    running.run_plan(
        plan, other, tmp_path / "other", datasets, lambda event: None, RunOptions(jobs=0)
    )
    (one,), (two,) = attempts(store), attempts(other)
    assert one.checkpoint_sha256 == two.checkpoint_sha256


def test_a_failing_display_does_not_end_the_run(run, capsys) -> None:
    events: list[Event] = []

    def fail(event: Event) -> None:
        events.append(event)
        raise SystemExit("the pipe is closed")

    tally = run(["dense"], on_event=fail)
    assert (tally.trained, tally.failures) == (1, [])
    assert len(events) == 1
    assert "nothing more is shown here" in capsys.readouterr().err
