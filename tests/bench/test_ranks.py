"""Trainings that two processes share: the same optimisation as that of one."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.config.schema import TrialSpec
from bench.data import Dataset
from bench.data.batches import TrainingBatches
from bench.train.ranks import Ranks, joined
from bench.train.step import Trainer

CPU = torch.device("cpu")
SUMS = dict.fromkeys(["importance", "gshard", "router_similarity", "z", "sequence_balance"], 1.0)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("dense", {}),
    "losses over sums": ("softmax_token_choice", {"losses": SUMS}),
    "global batch": ("softmax_token_choice", {"losses": {"global_batch": 1.0}}),
    "bias updates": ("loss_free", {"losses": {"gate_entropy": 0.1}}),
    "soft": ("soft_moe", {"losses": {"importance": 1.0}}),
    "expert choice": ("sinkhorn_expert_choice", {"losses": {"importance": 1.0}}),
    "own loss of sums": ("relu", {}),
    "two sums of a step": ("dynmoe", {}),
}


def in_ranks(
    folder: Path, function: Callable[[Ranks], Any], number: int = 2, seconds: float = 60
) -> list[Any]:
    """Call a function in so many processes that reach each other; returns what each of them does.

    An exception is returned as its text.
    """
    context = multiprocessing.get_context("fork")
    folder.mkdir(exist_ok=True)
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)

    def run(rank: int, answer: Connection) -> None:
        torch.set_num_threads(1)
        try:
            with joined(number, rank, meeting, CPU) as ranks:
                answer.send(function(ranks))
        except Exception as error:
            traceback.print_exc()
            answer.send(f"{type(error).__name__}: {error}")

    answers, processes = [], []
    for rank in range(number):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=run, args=(rank, theirs)))
        processes[-1].start()
        theirs.close()
        answers.append(ours)
    try:
        assert all(answer.poll(seconds) for answer in answers), "a rank does not answer"
        return [answer.recv() for answer in answers]
    finally:
        for process in processes:
            process.kill()
            process.join()


def shared(spec: TrialSpec, number: int = 2, micro_batches: int = 1) -> TrialSpec:
    """Return the same trial, trained by so many ranks."""
    update = {"ranks": number, "micro_batches": micro_batches}
    return spec.model_copy(update={"train": spec.train.model_copy(update=update)})


def steps_of(spec: TrialSpec, dataset: Dataset, ranks: Ranks | None = None, steps: int = 3) -> Any:
    """Take steps; returns the losses, the gradients of each step, and the state at the end."""
    ranks = ranks or Ranks()
    batches = TrainingBatches(spec, dataset, CPU, ranks.rank)
    trainer = Trainer(spec, dataset, batches, CPU, 8, ranks=ranks)
    losses, gradients = [], []
    for step in range(steps):
        losses.append(trainer.step(step).item())
        named = trainer.model.named_parameters()
        gradients.append({name: p.grad.numpy() for name, p in named if p.grad is not None})
    state = {name: tensor.numpy() for name, tensor in trainer.model.state_dict().items()}
    return losses, gradients, state


# The same optimisation


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_give_the_losses_gradients_and_weights_of_one_process(
    case, micro_batches, tiny_spec, tiny_dataset, tmp_path
):
    name, options = CASES[case]
    if case == "global batch" and micro_batches > 1:
        return  # it takes the mean over micro-batches
    spec = tiny_spec(name, batch_size=15, clip_norm=0.1, **options)
    both = shared(spec, 2, micro_batches)
    answers = in_ranks(tmp_path, lambda ranks: steps_of(both, tiny_dataset, ranks))
    one = steps_of(spec, tiny_dataset)
    for losses, gradients, state in answers:
        assert losses == pytest.approx(one[0], rel=1e-4)
        assert [step.keys() for step in gradients] == [step.keys() for step in one[1]]
        for step, want in zip(gradients, one[1], strict=True):
            torch.testing.assert_close(step, want, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(state, one[2], rtol=1e-3, atol=1e-5)
    first, second = answers
    assert first[0] == second[0]
    assert all((first[2][key] == second[2][key]).all() for key in first[2])
