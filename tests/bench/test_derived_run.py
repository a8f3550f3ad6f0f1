"""Runs with derived trials: their order, their reuse, and what a parent's failure costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select

import bench.execute.runner as running
from bench.config.presets import Preset, load_preset
from bench.data.files import read_tensors
from bench.data.registry import Datasets
from bench.execute import training
from bench.execute.context import RunOptions
from bench.execute.events import RunSummary
from bench.plan import fingerprint
from bench.plan.plan import Plan, make_plan, make_request
from bench.plan.registration import record_plan
from bench.plan.reuse import Retry, Reuse, explain
from results import Store
from results.frames import trials_frame
from results.models import AttemptRow, TrialRow
from routers.errors import RequestError

PARENT = "softmax_token_choice"
CHILD = {"routers": [PARENT], "set": {"router.affinity": "mlp"}}
DISTILLED = {**CHILD, "parent": {"router": PARENT, "transform": "distill"}}
LABELS = [
    PARENT,
    f"{PARENT} transform=distill parent={PARENT}",
]


@pytest.fixture
def plan(datasets: Datasets) -> Callable[..., Plan]:
    """Make plans of a shortened preset smoke with these parts."""

    def make(*parts: dict[str, Any], suites: tuple[str, ...] = ("accuracy",), **asked: Any) -> Plan:
        smoke = load_preset("smoke")
        quick = {**smoke.model_dump(), "routers": (), "parts": parts}
        quick["train"] = {**quick["train"], "epochs": 0.2}
        return make_plan(
            make_request(Preset.model_validate(quick), suites=suites, **asked), datasets
        )

    return make


@pytest.fixture
def run(tmp_path: Path, store: Store, datasets: Datasets) -> Callable[..., RunSummary]:
    """Run a plan in this process."""

    def do(plan: Plan, retry: Retry = None) -> RunSummary:
        how = RunOptions(jobs=0, retry=retry)
        return running.run_plan(plan, store, tmp_path, datasets, lambda event: None, how)

    return do


def attempts(store: Store) -> list[AttemptRow]:
    """Return the attempts in the plan's order."""
    with store.reading() as session:
        rows = select(AttemptRow).order_by(AttemptRow.trial_id, AttemptRow.id)
        return list(session.scalars(rows))


@pytest.mark.slow
def test_a_derived_trial_starts_from_its_parents_trained_weights(
    plan, run, store, tmp_path
) -> None:
    made = plan({"routers": [PARENT]}, DISTILLED, seeds=2)
    assert [planned.label for planned in made.trials] == LABELS * 2
    tally = run(made)
    assert (tally.trained, tally.measured, tally.failures) == (4, 4, [])
    rows = attempts(store)
    for parent, child in zip(rows[::2], rows[1::2], strict=True):
        learnt, kept = (
            read_tensors(tmp_path / row.checkpoint, row.checkpoint_sha256)
            for row in (parent, child)
        )
        same = {name for name in kept if name in learnt and kept[name].shape == learnt[name].shape}
        assert same
        assert all(".router." in name for name in kept.keys() - same)
        assert all(torch.equal(kept[name], learnt[name]) for name in same)
        assert child.steps > parent.steps
        assert child.flops == pytest.approx(parent.flops, rel=0.2)
    with store.reading() as session:
        first, second = session.scalars(select(TrialRow).order_by(TrialRow.id).limit(2))
        assert (first.parent_id, first.transform) == (None, None)
        assert (second.parent_id, second.transform) == (first.id, "distill")
    shown = trials_frame(store, "smoke")
    assert shown.parent.tolist()[1] == shown.trial.tolist()[0]
    assert shown.parent.tolist()[0] is None
    assert shown.condition.tolist()[:2] == [label.partition(" ")[2] for label in LABELS]
    again = run(made)
    assert (again.trained, again.reused) == (0, 4)


@pytest.mark.slow
def test_a_child_is_retrained_if_its_parent_changes(plan, run, monkeypatch, store) -> None:
    both = [{"routers": [PARENT]}, DISTILLED]
    run(plan(*both))
    elsewhere = [{"routers": [PARENT], "set": {"train.lr": 0.1}}, DISTILLED]
    tally = run(plan(*elsewhere))
    assert (tally.trained, tally.reused) == (2, 0)
    parent, child, *_ = store.all_trials()
    explanation = list(explain(child, store))
    assert explanation[2] == f"distill from {PARENT}, trial {parent.fingerprint}"
    assert f"  same     parent '{PARENT}'" in explanation
    monkeypatch.setattr(fingerprint, "combined", lambda hashes: f"changed {len(hashes)}")
    _, now = Reuse(store, Path(), None).trials(plan(*both).trials)
    assert f"changed parent: '{PARENT}'; changed source: router" in now.reason


@pytest.mark.slow
def test_a_parent_without_weights_is_retrained_if_a_child_needs_them(
    plan, run, store, tmp_path
) -> None:
    alone, both = [{"routers": [PARENT]}], [{"routers": [PARENT]}, DISTILLED]
    run(plan(*alone))
    (first,) = attempts(store)
    (tmp_path / first.checkpoint).unlink()
    assert (run(plan(*alone)).trained, len(attempts(store))) == (0, 1)
    made = plan(*both)
    record_plan(made, store)
    parent, child = Reuse(store, tmp_path, None).trials(made.trials)
    assert parent.reason == "its checkpoint is gone, and a derived trial needs it"
    assert (parent.train, child.train) == (True, True)
    assert run(made).trained == 2
    again, _ = attempts(store)[1:]
    assert again.checkpoint_sha256 == first.checkpoint_sha256
    (tmp_path / first.checkpoint).unlink()
    assert run(made) == RunSummary(reused=2)  # the child has what it needs


@pytest.mark.slow
def test_a_chain_without_weights_is_trained_again_where_its_last_trial_is_new(
    plan, run, store, tmp_path
) -> None:
    chain = [{"routers": [PARENT]}, DISTILLED]
    run(plan(*chain))
    for row in attempts(store):
        (tmp_path / row.checkpoint).unlink()
    tuned = {**CHILD, "parent": {"router": PARENT, "transform": "fine_tune"}}
    summary = run(plan(*chain, tuned))
    assert (summary.trained, summary.failures) == (3, [])


@pytest.mark.slow
def test_a_failed_parent_fails_its_children_and_no_other_trial(plan, run, store, exploding) -> None:
    exploding.error = ValueError("boom")
    derived = {**CHILD, "parent": {"router": "exploding", "transform": "fine_tune"}}
    made = plan({"routers": ["exploding"]}, derived, {"routers": ["dense"]})
    tally = run(made)
    parent, child, other = attempts(store)
    assert [row.status for row in (parent, child, other)] == ["failed", "failed", "done"]
    name = made.trials[0].fingerprint.value[:10]
    message = f"its parent, exploding seed 0 (trial {name}), failed: ValueError: boom"
    assert child.error == message
    assert [failure.error for failure in tally.failures] == ["ValueError: boom", message]
    exploding.error = None
    assert run(made).trained == 0
    assert run(made, retry="failed").trained == 2


def test_a_diverged_parent_fails_its_children(plan, run, store) -> None:
    wild = {"train.lr": 1e30, "train.clip_norm": None}
    run(plan({"routers": [PARENT], "set": wild}, DISTILLED))
    parent, child = attempts(store)
    assert (parent.status, child.status) == ("diverged", "failed")
    assert f"), diverged: {parent.error}" in child.error


def test_nothing_starts_if_a_transform_does_not_fit(plan, run, store, monkeypatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nothing is trained")

    monkeypatch.setattr(training, "train_trial", never)
    without_gate = {"routers": ["hash"], "parent": DISTILLED["parent"]}
    with pytest.raises(RequestError, match=r"transform=distill.*has none that learns"):
        run(plan({"routers": [PARENT]}, without_gate))
    assert store.studies() == []


def test_a_layer_shared_by_parent_and_children_is_measured_once(plan) -> None:
    tuned = {"routers": [PARENT], "parent": {"router": PARENT, "transform": "fine_tune"}}
    made = plan({"routers": [PARENT]}, tuned, DISTILLED, suites=("throughput",))
    assert [layer.label for layer in made.layers] == [
        f"{PARENT} router.affinity=linear",
        f"{PARENT} router.affinity=mlp",
    ]
