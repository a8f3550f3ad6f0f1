"""Trainings shared by two processes: the same optimisation as in one process."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
import torch

from bench.config.presets import Preset, load_preset
from bench.config.schema import TrialSpec
from bench.data import Dataset, Datasets
from bench.data.batches import TrainingBatches
from bench.data.files import read_tensors
from bench.execute import devices
from bench.execute.context import RunOptions, trial_folder
from bench.execute.events import Event, OnEvent, Progress
from bench.execute.fork_server import fork_server
from bench.execute.ranks import _follow
from bench.execute.runner import prepare_plan, run_plan
from bench.plan.plan import make_plan, make_request
from bench.train.loop import train_trial
from bench.train.outcome import Outcome, read_outcome
from bench.train.ranks import Ranks, buckets, joined
from bench.train.step import Trainer
from bench.tune import Tuning, prepare_tuning, tune
from results import open_store
from results.frames import trials_frame
from routers import ROUTERS, load_plugin
from routers.errors import RequestError

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
    folder: Path, function: Callable[[Ranks], Any], number: int = 2, answering: int = 2
) -> list[Any]:
    """Call a function in `number` connected processes; return what the first `answering` return.

    An exception is returned as its text.
    """
    # Not forks of this process, where other tests may have started autograd threads.
    context = fork_server()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    pickled = cloudpickle.dumps(function)
    folder.mkdir(exist_ok=True)
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)

    answers, processes = [], []
    for rank in range(number):
        ours, theirs = context.Pipe()
        processes.append(
            context.Process(target=_run, args=(pickled, number, rank, meeting, theirs))
        )
        processes[-1].start()
        theirs.close()
        answers.append(ours)
    try:
        assert all(answer.poll(300) for answer in answers[:answering]), "a rank does not respond"
        return [answer.recv() for answer in answers[:answering]]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _run(pickled: bytes, number: int, rank: int, meeting: Path, answer: Connection) -> None:
    torch.set_num_threads(1)
    try:
        with joined(number, rank, meeting, CPU) as ranks:
            answer.send(cloudpickle.loads(pickled)(ranks))
    except Exception as error:
        traceback.print_exc()
        answer.send(f"{type(error).__name__}: {error}")


def shared(spec: TrialSpec, number: int = 2, micro_batches: int = 1) -> TrialSpec:
    """Return the same trial, trained by that many ranks."""
    update = {"ranks": number, "micro_batches": micro_batches}
    return spec.model_copy(update={"train": spec.train.model_copy(update=update)})


def steps_of(spec: TrialSpec, dataset: Dataset, ranks: Ranks | None = None, steps: int = 3) -> Any:
    """Take steps; return the losses, the gradients of each step, and the final state."""
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


IN_PARTS = ("losses over sums", "bias updates", "two sums of a step")
"""Cases in which ranks and micro-batches add up the same numbers."""


@pytest.mark.parametrize(
    ("case", "micro_batches"), [*((case, 1) for case in CASES), *((case, 2) for case in IN_PARTS)]
)
@pytest.mark.slow
def test_two_ranks_give_the_losses_gradients_and_weights_of_one_process(
    case, micro_batches, tiny_spec, tiny_dataset, tmp_path
):
    name, options = CASES[case]
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


NO_LIMIT = {"capacity_factor": None}


def summary(outcome: Outcome) -> tuple[Any, ...]:
    values = [row.value for row in outcome.history if "loss" in row.name]
    return outcome.status, outcome.steps, outcome.flops, values, outcome.sha256


@pytest.mark.parametrize(("name", "router"), [("softmax_token_choice", NO_LIMIT), ("soft_moe", {})])
def test_a_shared_training_matches_one_process_and_resumes_to_the_same_bits(
    name, router, tiny_spec, tiny_dataset, tmp_path
):
    spec = tiny_spec(name, router=router, epochs=2, ema=0.9)
    # In micro-batches too: without a capacity, the fullest expert of each sets the amount of work.
    one = summary(train_trial(shared(spec, 1, 2), tiny_dataset, CPU, tmp_path / "one"))

    def train(folder: Path, stop: bool = False) -> list[Any]:
        def rank_of(ranks: Ranks) -> Any:
            arguments = shared(spec), tiny_dataset, CPU, folder
            asked = (lambda: stop) if ranks.first else pytest.fail  # only the first is asked
            return summary(train_trial(*arguments, ranks=ranks, save_every=0, stop=asked))

        return in_ranks(tmp_path, rank_of)

    first, second = train(tmp_path / "two")
    assert first == second
    assert first[:2] == one[:2]
    assert first[2] == pytest.approx(one[2], rel=1e-6)
    assert first[3] == pytest.approx(one[3], rel=1e-2)
    parts = tmp_path / "parts"
    for answer in train(parts, stop=True):
        assert answer.startswith("TrainingInterrupted: stopped after step")
    assert train(parts) == [first, first]


def test_non_finite_logits_on_one_rank_end_all_ranks(tiny_spec, tiny_dataset, tmp_path):
    spec = shared(tiny_spec())

    def run(ranks: Ranks) -> None:
        batches = TrainingBatches(spec, tiny_dataset, CPU, ranks.rank)
        trainer = Trainer(spec, tiny_dataset, batches, CPU, 2, ranks=ranks)
        if not ranks.first:
            batches.first[0][:] = torch.nan
        trainer.step(0)

    first, second = in_ranks(tmp_path, run)
    assert "layer blocks.1.mlp" in second
    assert first.startswith("NonFiniteError: ")
    assert first == second


def test_a_rank_that_dies_raises_an_error_in_the_other(tmp_path):
    def run(ranks: Ranks) -> Any:
        if not ranks.first:
            os._exit(3)
        return ranks.total(1)

    (answer,) = in_ranks(tmp_path, run, answering=1)
    assert answer.startswith("RankLostError: another rank is gone")


def test_values_are_gathered_from_all_ranks_summed_or_taken_from_the_first(tmp_path):
    def run(ranks: Ranks) -> Any:
        return (
            ranks.gather(ranks.rank),
            ranks.of_first(lambda: 10 + ranks.rank),
            ranks.total(2**51 + ranks.rank),
        )

    assert in_ranks(tmp_path, run) == [([0, 1], 10, 2**52 + 1)] * 2
    alone = Ranks()
    assert (alone.gather(5), alone.of_first(lambda: 6), alone.total(7)) == ([5], 6, 7)


def test_gradient_buckets_have_one_type_and_a_limited_size():
    tensors = [torch.zeros(size) for size in (3, 1, 2, 9)] + [torch.zeros(1).double()]
    sizes = [[each.numel() for each in bucket] for bucket in buckets(tensors, 4 * 4)]
    assert sizes == [[3, 1], [2], [9], [1]]


# Refusals


def test_trials_that_splitting_a_batch_would_change_are_refused(tiny_spec, tiny_dataset):
    spec = shared(tiny_spec(losses={"sample_similarity": 0.1}))
    batches = TrainingBatches(spec, tiny_dataset, CPU)
    match = "train.ranks = 2 .*: the loss 'sample_similarity' is taken over the whole batch; leave"
    with pytest.raises(RequestError, match=match):
        Trainer(spec, tiny_dataset, batches, CPU, 1)
    spec = shared(tiny_spec(batch_size=3), 2, 2)
    with pytest.raises(RequestError, match="has no 4 parts"):
        Trainer(spec, tiny_dataset, TrainingBatches(spec, tiny_dataset, CPU), CPU, 1)


def test_a_worker_gets_one_gpu_per_rank(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: ("0", "1", "2", "3", "4"))
    assert devices.slots(None, (), 2) == ("0,1", "2,3")
    assert devices.slots(3, ("4", "0"), 2) == ("4,0",) * 3
    assert devices.slots(None, (), 1) == ("0", "1", "2", "3", "4")
    with pytest.raises(RequestError, match=r"train.ranks = 2 needs 2 GPUs, .*; usable here: 3"):
        devices.slots(None, ("3",), 2)


def test_a_training_that_reports_constantly_still_hears_stop():
    ours, theirs = Pipe()
    rank: Future[bool] = Future()
    emitted: list[Any] = []

    def train() -> None:
        end = time.monotonic() + 30
        while not theirs.poll() and time.monotonic() < end:
            theirs.send("progress")
        rank.set_result(theirs.poll())
        theirs.close()

    context = SimpleNamespace(emit=emitted.append, stop=lambda: len(emitted) > 9)
    Thread(target=train).start()
    _follow([rank], ours, context)
    assert rank.result()


@pytest.mark.slow
def test_submitting_an_array_needs_no_gpus_for_the_ranks_of_its_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: ("0",))
    smoke = load_preset("smoke").model_copy(update={"parts": ()})
    request = make_request(smoke, routers=["dense"], suites=["accuracy"], settings=SETTINGS)
    store, datasets = open_store(tmp_path / "bench.db"), Datasets()
    plan, tuning = make_plan(request, datasets), Tuning("t", request.preset)
    where, options = (store, tmp_path, datasets), RunOptions(jobs=0)
    few = r"train.ranks = 2 needs 2 GPUs, .* each worker has 1: set cluster.gpus = 2"
    for written, (prepare, asked) in enumerate(((prepare_plan, plan), (prepare_tuning, tuning))):
        with pytest.raises(RequestError, match=few):
            prepare(asked, *where, options, 1)
        assert len(store.studies()) == written
        assert prepare(asked, *where, options, 2) == 1
    assert [study.name for study in store.studies()] == ["smoke", "t"]
    match = r"train.ranks = 2 needs 2 GPUs, one for each rank; usable here: 0"
    with pytest.raises(RequestError, match=match):
        run_plan(plan, *where, lambda event: None, options)
    with pytest.raises(RequestError, match=match):
        tune(tuning, *where, lambda event: None, options)


def test_one_process_is_described_as_before_the_setting_existed(tiny_spec):
    assert "ranks" not in tiny_spec().model_dump(mode="json")["train"]
    assert shared(tiny_spec()).model_dump(mode="json")["train"]["ranks"] == 2


# Whole runs


MORTAL = """
import os, signal
from torch import distributed
from routers import Router, SoftRouting, register_router

@register_router("mortal", family="soft")
class Mortal(Router):
    def allocate(self, logits):
        if distributed.is_initialized() and distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return SoftRouting.from_logits(logits[..., None])
"""
SETTINGS = {"train.ranks": 2, "train.epochs": 15}


@pytest.fixture
def mortal(tmp_path) -> Iterator[Path]:
    plugin = tmp_path / "mortal.py"
    plugin.write_text(MORTAL)
    load_plugin(plugin)
    yield plugin
    ROUTERS.discard("mortal")


@pytest.mark.parametrize("jobs", [0, 1])
@pytest.mark.slow
def test_a_run_stops_and_resumes_shared_trainings_and_a_killed_rank_fails_its_own(
    jobs, tmp_path, mortal
):
    store, datasets = open_store(tmp_path / "bench.db"), Datasets()
    options = RunOptions(jobs=jobs, plugins=(mortal,))

    def run(routers: list[str], on_event: OnEvent) -> dict[str, Any]:
        request = make_request(
            load_preset("smoke"), routers=routers, suites=["accuracy"], settings=SETTINGS
        )
        run_plan(make_plan(request, datasets), store, tmp_path, datasets, on_event, options)
        return {row.router: row for row in trials_frame(store).itertuples()}

    seen: list[int] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress):
            seen.append(event.step)
            if len(seen) == 1:  # the second signal ends a run at once
                os.kill(os.getpid(), signal.SIGTERM)

    stopped = run(["soft_moe"], interrupt)["soft_moe"]
    assert stopped.status == "interrupted"
    assert "stopped after step" in stopped.error
    progress: list[int] = []
    rows = run(
        ["soft_moe", "mortal"],
        lambda event: progress.append(event.step) if isinstance(event, Progress) else None,
    )
    assert rows["soft_moe"].status == "done"
    assert progress[0] > seen[-1]
    assert rows["mortal"].status == "failed"
    assert rows["mortal"].error.startswith("rank 1 of the training was killed by SIGKILL")


ROUTER = "softmax_token_choice"
DERIVED = {
    "distill": {"router.affinity": "mlp"},
    "fine_tune": {},
    "prune_router_change": {"experts.num_experts": 2},
    "merge_outputs": {"experts.num_experts": 2},
}
"""The settings in which a trial differs from its parent, by transform."""


@pytest.mark.parametrize("jobs", [0, 1])
@pytest.mark.slow
def test_derived_trials_on_ranks_have_the_steps_and_losses_of_one_process(jobs, tmp_path):
    derived = [
        {"routers": [ROUTER], "set": settings, "parent": {"router": ROUTER, "transform": transform}}
        for transform, settings in DERIVED.items()
    ]
    parts = [{"routers": [ROUTER]}, *derived]
    preset = Preset.model_validate({**load_preset("smoke").model_dump(), "parts": parts})
    preset = preset.model_copy(update={"routers": ()})
    datasets = Datasets()

    def trained(ranks: int, jobs: int) -> list[Outcome]:
        home, settings = tmp_path / str(ranks), {"train.ranks": ranks, "train.epochs": 0.2}
        plan = make_plan(make_request(preset, suites=["accuracy"], settings=settings), datasets)
        with open_store(home / "bench.db") as store:
            options = RunOptions(jobs=jobs)
            done = run_plan(plan, store, home, datasets, lambda event: None, options)
        assert (done.failures, done.trained, done.measured) == ([], 5, 5)
        return [read_outcome(trial_folder(home, each.fingerprint.value)) for each in plan.trials]

    one, two = trained(1, jobs=0), trained(2, jobs)
    for alone, shared_by_two in zip(one, two, strict=True):
        assert shared_by_two.steps == alone.steps
        assert shared_by_two.flops == pytest.approx(alone.flops, rel=1e-6)
        losses = [
            [row.value for row in each.history if "loss" in row.name]
            for each in (shared_by_two, alone)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    learned, distilled = (
        read_tensors(each.folder / each.final.file, each.final.sha256) for each in two[:2]
    )
    kept = [name for name in distilled if ".router." not in name]
    assert kept
    assert all(torch.equal(distilled[name], learned[name]) for name in kept)
