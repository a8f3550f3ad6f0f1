"""An interrupted training gives the same bits as an uninterrupted one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.config.schema import AugmentConfig, TrialSpec
from bench.model.build import Parent, trial_model
from bench.train import checkpoint
from bench.train.evaluation import TrainingState
from bench.train.loop import TrainingInterrupted, train_trial
from bench.train.outcome import Outcome, read_outcome
from bench.train.step import Trainer
from routers import ROUTERS, Router, TokenChoiceRouting, register_router

CPU = torch.device("cpu")


@pytest.fixture
def biased() -> Iterator[None]:
    """A router with a gate bias driven by the loads, which works differently in its first steps."""

    @register_router("biased", family="token_choice")
    class Biased(Router):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.register_buffer("bias", torch.zeros(self.num_experts))
            self.register_buffer("steps", torch.zeros((), dtype=torch.long), persistent=False)
            self.register_buffer("loads", None, persistent=False)

        def allocate(self, logits: Tensor) -> TokenChoiceRouting:
            if self.training and self.steps < 3:
                logits = logits * 1  # so the first steps take other FLOPs
            elif self.training and self.steps < 6:
                torch.linalg.qr(logits.detach()[0])  # has no price; met at the first evaluation
            gates = torch.softmax(logits + self.bias, dim=-1)
            return TokenChoiceRouting.top_k(gates, k=1, capacity=self.capacity(logits))

        def after_step(self, stats: dict[str, Tensor]) -> None:
            self.steps += 1
            seen = stats["demand"].float()
            self.loads = seen if self.loads is None else 0.5 * (self.loads + seen)
            self.bias -= 0.1 / self.steps * (self.loads - self.loads.mean()).sign()

    yield
    ROUTERS.discard("biased")


def dropping(spec: TrialSpec) -> dict[str, Any]:
    return {"options": {**spec.model.options, "proj_drop_rate": 0.2}}


RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("dense", {}),
    "ema": ("softmax_token_choice", {"ema": 0.9}),
    "bfloat16": ("soft_moe", {"precision": "bfloat16"}),
    "noise": ("softmax_token_choice", {"router": {"noise_std": 1.0}, "losses": {"load": 0.1}}),
    "data": ("softmax_token_choice", {"router": {"capacity_factor": None}}),
    "sinkhorn": ("sinkhorn_expert_choice", {}),
    "frozen": ("frozen", {"weight_decay": 0.5}),
    "biased": ("biased", {"ema": 0.9}),
    "randaugment": ("dense", {}),
    "distilled": ("softmax_token_choice", {"router": {"affinity": "mlp"}}),
}


@pytest.fixture(params=RECIPES)
def trial(request, tiny_spec, tiny_dataset, biased) -> dict[str, Any]:
    """Return the arguments of `train_trial` for one of many recipes."""
    name, own = RECIPES[request.param]
    recipe = {"epochs": 4, "evaluations": 5, "snapshots": 4, "match": "steps", "lr": 5e-3}
    spec = tiny_spec(name, **{**recipe, **own})
    parent = None
    if request.param == "noise":
        spec = tiny_spec(name, **{**recipe, **own}, model=dropping(spec))
    if request.param == "randaugment":
        data = spec.data.model_copy(update={"augment": AugmentConfig(randaugment="rand-m9-n2")})
        spec = spec.model_copy(update={"data": data})
    if request.param == "distilled":
        before = tiny_spec(name, **recipe)
        spec, parent = spec.derived(before, "distill"), Parent(trial_model(before, tiny_dataset))
    return {"spec": spec, "dataset": tiny_dataset, "device": CPU, "parent": parent}


@pytest.fixture(scope="module")
def plain(tiny_spec, tiny_dataset) -> dict[str, Any]:
    """A training of 24 steps, whose segments end at SEGMENT_ENDS."""
    spec = tiny_spec("soft_moe", epochs=4, evaluations=5, snapshots=4, match="steps")
    return {"spec": spec, "dataset": tiny_dataset, "device": CPU}


@pytest.fixture(scope="module")
def whole(plain, tmp_path_factory) -> Outcome:
    """The outcome of that training when nothing interrupts it."""
    return train_trial(**plain, folder=tmp_path_factory.mktemp("whole"))


SEGMENT_ENDS = [5, 8, 10, 14, 16, 19, 20, 24]


def stopped_at(step: int, folder: Path, trial: dict[str, Any]) -> list[int]:
    """Train until the segment that ends at a step; return the ends of the trained segments."""
    steps: list[int] = []
    with pytest.raises(TrainingInterrupted, match=f"stopped after step {step} of 24"):
        train_trial(
            **trial,
            folder=folder,
            on_progress=lambda done, *_: steps.append(done),
            stop=lambda: steps[-1] == step,
        )
    assert steps[-1] == step
    assert (folder / checkpoint.FILE).exists()
    assert not (folder / "outcome.json").exists()
    torch.rand(7)  # whatever happens in between has no effect
    return steps


def facts(outcome: Outcome) -> dict[str, Any]:
    """Return all of an outcome except the times, with snapshots by their SHA-256."""
    fields = json.loads(outcome.model_dump_json(exclude={"seconds"}))
    for row in fields["history"] + fields["snapshots"]:
        assert row.pop("seconds") >= 0
    return fields


# The same bits


@pytest.mark.slow
def test_an_interrupted_training_gives_the_same_bits(trial, tmp_path, capsys):
    whole = train_trial(**trial, folder=tmp_path / "whole")
    assert whole.steps == 24
    first = stopped_at(8, tmp_path / "parts", trial)
    second = stopped_at(19, tmp_path / "parts", trial)
    assert first + second == SEGMENT_ENDS[: SEGMENT_ENDS.index(19) + 1]
    parts = train_trial(**trial, folder=tmp_path / "parts")
    assert facts(parts) == facts(whole)
    assert facts(read_outcome(tmp_path / "parts")) == facts(whole)
    # The state becomes useless once the attempt's end is written, not before.
    checkpoint.discard_state(tmp_path / "parts")
    names = [{file.name for file in (tmp_path / of).iterdir()} for of in ("parts", "whole")]
    assert names[0] == names[1]
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "training resumes after step 8 of 24",
        "training resumes after step 19 of 24",
    ]
    assert printed.err == ""


@pytest.mark.parametrize("step", SEGMENT_ENDS)
@pytest.mark.slow
def test_a_training_can_be_interrupted_after_each_segment(step, plain, whole, tmp_path):
    stopped_at(step, tmp_path / "parts", plain)
    steps: list[int] = []
    parts = train_trial(
        **plain, folder=tmp_path / "parts", on_progress=lambda done, *_: steps.append(done)
    )
    assert facts(parts) == facts(whole)
    assert steps == SEGMENT_ENDS[SEGMENT_ENDS.index(step) + 1 :]


def test_seconds_and_accuracy_continue_from_the_saved_state(plain, tmp_path):
    progress: list[tuple[Any, ...]] = []
    with pytest.raises(TrainingInterrupted):
        train_trial(
            **plain, folder=tmp_path, on_progress=lambda *at: progress.append(at), stop=lambda: True
        )
    ((_, _, _, accuracy, evaluations, seconds),) = progress
    outcome = train_trial(**plain, folder=tmp_path, on_progress=lambda *at: progress.append(at))
    assert progress[1][3:5] == (accuracy, evaluations)  # no evaluation at step 8
    assert progress[1][5] > seconds > 0
    assert progress[-1][4] == plain["spec"].train.evaluations
    times = [row.seconds for row in outcome.history]
    assert times == sorted(times)
    assert times[0] == seconds


def test_the_state_is_saved_as_often_as_requested(plain, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(checkpoint, "save_state", lambda *_: kept.append(1))
    train_trial(**plain, folder=tmp_path)
    assert not kept  # it takes less than a minute
    train_trial(**plain, folder=tmp_path, save_every=0)
    assert len(kept) == len(SEGMENT_ENDS)


def test_a_diverged_training_leaves_no_state_to_resume_from(plain, tmp_path, monkeypatch):
    step = Trainer.step

    def breaking(self, number, counter=None):
        loss = step(self, number, counter)
        return loss * math.inf if number == 17 else loss

    stopped_at(14, tmp_path / "parts", plain)
    monkeypatch.setattr(Trainer, "step", breaking)
    parts = train_trial(**plain, folder=tmp_path / "parts")
    assert (parts.status, parts.error) == ("diverged", "the loss is inf at step 18 of 24")
    assert facts(train_trial(**plain, folder=tmp_path / "whole")) == facts(parts)


# Unusable states


def flip(path: Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def edit(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Change the state and the tensors of a saved training, keeping the file valid."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    state, tensors = json.loads(metadata["state"]), load_file(path)
    change(state, tensors)
    checkpoint.save_state(
        path.parent, metadata["training"], TrainingState.model_validate(state), tensors
    )


def shortened(state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["model.head.weight"] = tensors["model.head.weight"][:, :3]


def renamed(state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["model.tail.weight"] = tensors.pop("model.head.weight")


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "header"),
    "garbage": (lambda path: path.write_bytes(b"garbage" * 999), "header"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "metadata|header|buffer"),
    "a flipped bit at the end": (lambda path: flip(path, 1), "not what was written"),
    "a flipped bit in the middle": (lambda path: flip(path, 0.5), "not what was written"),
    "weights": (lambda path: save_file({"x": torch.ones(2)}, path), "not what was written"),
    "another shape": (lambda path: edit(path, shortened), r"does not fit the model.*head\.weight"),
    "another name": (lambda path: edit(path, renamed), r"does not fit the model.*head\.weight"),
    "another snapshot": (lambda path: flip(path.with_name("step-0000008.safetensors"), 1), "0008"),
    "no snapshot": (lambda path: path.with_name("step-0000000.safetensors").unlink(), "0000000"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.slow
def test_an_unusable_state_is_reported_and_the_training_starts_again(
    damage, plain, whole, tmp_path, capsys
):
    stopped_at(14, tmp_path / "parts", plain)
    spoil, why = DAMAGES[damage]
    spoil(tmp_path / "parts" / checkpoint.FILE)
    steps: list[int] = []
    parts = train_trial(
        **plain, folder=tmp_path / "parts", on_progress=lambda done, *_: steps.append(done)
    )
    assert facts(parts) == facts(whole)
    assert steps == SEGMENT_ENDS
    (line,) = capsys.readouterr().err.splitlines()
    start = (
        f"warning: training starts again, {tmp_path / 'parts' / checkpoint.FILE} cannot be used: "
    )
    assert line.startswith(start)
    assert re.search(why, line.removeprefix(start))


@pytest.mark.slow
def test_the_state_of_another_trial_is_not_used(plain, tmp_path, capsys):
    stopped_at(14, tmp_path, plain)
    other = {**plain, "spec": plain["spec"].model_copy(update={"seed": 1})}
    whole = train_trial(**other, folder=tmp_path / "whole")
    outcome = train_trial(**other, folder=tmp_path)
    assert facts(outcome) == facts(whole)
    assert "cannot be used: it belongs to another training run" in capsys.readouterr().err
