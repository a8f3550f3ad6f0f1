"""Weights in the home folder compared with the hashes in the database, and `db verify`."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from bench.cli import main
from bench.execute import trial_folder, verify_weights
from bench.train import SavedSnapshot
from results import CodeVersion, Machine, Store, Subject, open_store
from results.verify import Fault
from tests.bench.conftest import leave_outcome

DESCRIPTION = {
    "router": {"name": "soft_moe", "options": {}},
    "experts": {"name": "mlp", "num_experts": 8, "options": {}},
    "model": {"name": "vit", "options": {}},
    "data": {"name": "digits"},
    "train": {"epochs": 2},
    "seed": 0,
}


def trained(home: Path, store: Store, name: str) -> Path:
    """Put a trial with two snapshots on disk, as a training does; return its folder."""
    folder = trial_folder(home, name)
    folder.mkdir(parents=True)
    snapshots = []
    for step in (0, 8):
        content = f"{name} {step}".encode()
        file = f"weights-{step}.safetensors"
        (folder / file).write_bytes(content)
        digest = sha256(content).hexdigest()
        saved = SavedSnapshot(step=step, flops=1.0, seconds=1.0, file=file, sha256=digest)
        snapshots.append(saved)
    leave_outcome(folder, snapshots, steps=8)
    (trial,) = store.trials([Subject(name, DESCRIPTION)])
    store.add_trial_to_study(store.study("tiny", {}), trial)
    machine = store.machine(Machine("node1", "Linux", "EPYC", 2, 1, 2**33))
    code = store.code_version(CodeVersion(None, False, "3.11", {}))
    path = (folder / "weights-8.safetensors").relative_to(home).as_posix()
    attempt = store.begin_attempt(trial, machine, code)
    store.finish_attempt(attempt, "done", checkpoint=path, checkpoint_sha256=snapshots[-1].sha256)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with open_store(tmp_path / "bench.db") as store:
        for letter in "ab":
            trained(tmp_path, store, letter * 64)
    return tmp_path


def faults(home: Path) -> list[Fault]:
    with open_store(home / "bench.db", create=False, read_only=True) as store:
        return verify_weights(store, home).faults


def test_the_files_of_a_training_verify(home: Path) -> None:
    with open_store(home / "bench.db", create=False) as store:
        weights = verify_weights(store, home)
    assert (weights.checked, weights.absent, weights.faults) == (4, 0, [])


@pytest.mark.parametrize("file", ["weights-0.safetensors", "weights-8.safetensors"])
def test_changed_weights_are_named(home: Path, file: str) -> None:
    (trial_folder(home, "a" * 64) / file).write_bytes(b"changed")
    (fault,) = faults(home)
    assert fault.kind == "checkpoint"
    assert fault.what == f"trials/aaaaaaaaaaaaaaaa/{file}, of trial aaaaaaaaaa"
    assert sha256(b"changed").hexdigest()[:12] in fault.why


def test_weights_without_their_outcome_are_named(home: Path) -> None:
    (trial_folder(home, "a" * 64) / "outcome.json").write_text(json.dumps({"status": "done"}))
    (fault,) = faults(home)
    assert fault.what.startswith("trials/aaaaaaaaaaaaaaaa/weights-8.safetensors")
    assert "outcome.json cannot be read" in fault.why


def test_deleted_weights_are_no_fault(home: Path) -> None:
    shutil.rmtree(trial_folder(home, "a" * 64))
    (trial_folder(home, "b" * 64) / "weights-0.safetensors").unlink()
    with open_store(home / "bench.db", create=False) as store:
        weights = verify_weights(store, home)
    assert (weights.checked, weights.absent, weights.faults) == (1, 1, [])


def test_weights_without_an_attempt_are_orphans(home: Path) -> None:
    shutil.copytree(trial_folder(home, "a" * 64), home / "trials" / "other")
    why = "no attempt in this database has trained it"
    assert faults(home) == [Fault("orphan", "trials/other", why)]


def test_weights_of_a_running_attempt_are_not_orphans(home: Path) -> None:
    with open_store(home / "bench.db") as store:
        (trial,) = store.trials([Subject("c" * 64, DESCRIPTION)])
        store.begin_attempt(trial, 1, 1)
    trial_folder(home, "c" * 64).mkdir()
    assert faults(home) == []


def test_the_command_names_each_fault_and_ends_with_status_1(home: Path, capsys) -> None:
    def verified(status: int) -> str:
        with pytest.raises(SystemExit) as exited:
            main(["db", "verify", "--home", str(home)])
        assert exited.value.code == status
        return capsys.readouterr().out

    assert "nothing is wrong" in verified(0)
    before = (home / "bench.db").read_bytes()
    (trial_folder(home, "a" * 64) / "weights-8.safetensors").write_bytes(b"changed")
    (home / "trials" / "other").mkdir()
    output = verified(1)
    assert "checkpoint" in output
    assert "orphan" in output
    assert "2 faults; nothing was changed" in output
    assert (home / "bench.db").read_bytes() == before
    assert (home / "trials" / "other").is_dir()


def test_without_a_database_the_command_says_so(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["db", "verify", "--home", str(tmp_path)])
    assert exited.value.code == 2
    assert "there is no database" in capsys.readouterr().err
