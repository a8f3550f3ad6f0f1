"""Weights on disk are complete, identified by their hash, and never unpickled."""

import hashlib
import os
import pickle
import resource

import pytest
import torch
from torch import nn

from bench.data.files import (
    load_weights,
    read_tensors,
    replacing,
    save_weights,
    write_tensors,
)
from bench.train.outcome import Outcome, SavedSnapshot, read_outcome, write_outcome
from routers import BenchError
from suites.support.subject import HistoryPoint


def model(width=3):
    return nn.Sequential(nn.Linear(width, 4), nn.BatchNorm1d(4))


def test_weights_and_buffers_survive_a_round_trip(tmp_path):
    first, second = model(), model()
    first(torch.randn(8, 3))  # updates the running statistics
    path = tmp_path / "deep" / "a.safetensors"
    digest = save_weights(first, path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    load_weights(second, path, digest)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_tensors_that_share_memory_or_are_views_are_saved_separately(tmp_path):
    whole = torch.arange(6.0).view(2, 3)
    digest = write_tensors({"a": whole, "b": whole, "c": whole.t()}, tmp_path / "x")
    back = read_tensors(tmp_path / "x", digest)
    assert torch.equal(back["b"], whole)
    assert torch.equal(back["c"], whole.t())


def test_a_file_whose_content_changed_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    digest = save_weights(model(), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BenchError, match=f"a.safetensors is damaged or was replaced.*{digest}"):
        load_weights(model(), path, digest)


def test_a_missing_file_and_another_model_are_named(tmp_path):
    with pytest.raises(BenchError, match=r"b\.safetensors is missing"):
        load_weights(model(), tmp_path / "b.safetensors", "0" * 64)
    digest = save_weights(model(), tmp_path / "a.safetensors")
    with pytest.raises(BenchError, match=r"(?s)does not fit the model: .*size mismatch"):
        load_weights(model(width=5), tmp_path / "a.safetensors", digest)


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps({"weight": [1.0]}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(BenchError, match="is not a safetensors file"):
        read_tensors(path, digest)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def interrupted():
        with replacing(path) as part:
            part.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_as_such_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    digest = write_tensors({"x": torch.ones(2)}, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_tensors({"x": torch.ones(9999)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.equal(read_tensors(path, digest)["x"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_processes_that_write_the_same_file_do_not_corrupt_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    with replacing(path) as part:
        part.write_text("mine")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with replacing(path) as other:
            other.write_text("another's")
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def outcome(folder, **changes):
    snapshots = [
        SavedSnapshot(step=step, flops=1.0 * step, seconds=0.5, file=f"{step}", sha256="a" * 64)
        for step in (0, 4)
    ]
    values = {
        "status": "done",
        "error": None,
        "steps": 4,
        "planned_steps": 4,
        "flops": 4.0,
        "flops_budget": 4.1,
        "budget": 4.1,
        "budget_error": -0.02,
        "within_tolerance": True,
        "uncounted": [],
        "seconds": 0.5,
        "history": [HistoryPoint(4, 4.0, 0.5, "val", "val_top1", 0.25)],
        "snapshots": snapshots,
        "folder": folder,
    }
    return Outcome(**{**values, **changes})


def test_an_outcome_can_be_read_after_its_folder_has_moved(tmp_path):
    written = outcome(tmp_path / "a")
    write_outcome(written)
    (tmp_path / "a").rename(tmp_path / "b")
    back = read_outcome(tmp_path / "b")
    assert back == written.model_copy(update={"folder": tmp_path / "b"})
    assert back.checkpoint == tmp_path / "b" / "4"
    assert back.sha256 == "a" * 64


def test_a_diverged_outcome_has_no_checkpoint_and_keeps_its_infinite_loss(tmp_path):
    history = [HistoryPoint(2, 2.0, 0.2, "val", "val_loss", float("inf"))]
    diverged = outcome(tmp_path, status="diverged", error="the loss is inf", history=history)
    write_outcome(diverged)
    back = read_outcome(tmp_path)
    assert back == diverged
    assert back.checkpoint is None
    assert back.sha256 is None


def test_a_missing_or_broken_outcome_is_one_clear_message(tmp_path):
    with pytest.raises(BenchError, match="holds no finished training"):
        read_outcome(tmp_path)
    for broken in ("{", '{"status": "fine"}', "[1]"):
        (tmp_path / "outcome.json").write_text(broken)
        with pytest.raises(BenchError, match=r"outcome\.json cannot be read"):
            read_outcome(tmp_path)
