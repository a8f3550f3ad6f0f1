"""A number can be traced to the machine and the code that made it."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import pytest
import torch

from bench import environment
from bench.environment import code_version, machine
from results import open_store


@pytest.fixture
def checkout(tmp_path):
    """A git repository with one commit."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "router.py").write_text("x = 1\n")
    git(folder, "add", "router.py")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def git(folder, *arguments):
    identity = {"NAME": "A", "EMAIL": "a@example.org"}
    env = os.environ | {
        f"GIT_{who}_{k}": v for who in ("AUTHOR", "COMMITTER") for k, v in identity.items()
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, env=env
    )
    return done.stdout.strip()


def test_a_clean_checkout_is_described_by_its_commit(checkout):
    code = code_version(checkout)
    assert code.commit == git(checkout, "rev-parse", "HEAD")
    assert not code.dirty
    assert code.diff == ""
    assert code.libraries["torch"] == torch.__version__.partition("+")[0]


def test_the_diff_from_the_commit_is_stored(checkout):
    (checkout / "router.py").write_text("x = 2\n")
    (checkout / "new.py").write_text("")
    code = code_version(checkout)
    assert code.dirty
    assert "-x = 1\n+x = 2" in code.diff
    assert "?? new.py" in code.diff


def test_a_diff_that_is_not_utf_8_is_stored_as_far_as_it_can_be_decoded(checkout):
    (checkout / "router.py").write_bytes("x = 'é'\n".encode("latin-1"))
    assert "+x = '\ufffd'" in code_version(checkout).diff


def test_staged_changes_are_part_of_the_diff(checkout):
    (checkout / "router.py").write_text("x = 3\n")
    git(checkout, "add", "router.py")
    assert "+x = 3" in code_version(checkout).diff


def test_a_long_diff_is_truncated_and_says_so(checkout, monkeypatch):
    monkeypatch.setattr(environment, "LONGEST_DIFF", 300)
    (checkout / "router.py").write_text("y = 'long'\n" * 100)
    diff = code_version(checkout).diff
    assert len(diff) < 350
    assert diff.endswith("more characters")


def test_a_copy_without_git_has_no_commit(tmp_path):
    code = code_version(tmp_path)
    assert (code.commit, code.dirty, code.diff) == (None, False, "")


def test_a_copy_inside_another_repository_does_not_take_its_commit(checkout):
    inside = checkout / "vendored"
    inside.mkdir()
    assert code_version(inside).commit is None


def test_a_missing_git_is_not_an_error(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code_version(checkout).commit is None


def test_the_description_of_the_machine_is_stable():
    here = machine()
    assert here == machine()
    assert here.name
    assert here.system
    assert here.processor
    assert 1 <= here.cores <= os.cpu_count()
    assert here.threads == torch.get_num_threads()
    assert here.memory_bytes > 1e8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "1000000"),
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
        ("LD_PRELOAD", ""),
    ],
)
def test_settings_that_affect_speed_count_as_another_machine(monkeypatch, name, value):
    monkeypatch.delenv(name, raising=False)
    before = machine()
    monkeypatch.setenv(name, value)
    after = machine()
    assert after.settings[name] == value
    assert after != before


def test_another_number_of_threads_counts_as_another_machine(monkeypatch):
    before = machine()
    monkeypatch.setattr(torch, "get_num_threads", lambda: before.threads + 1)
    assert machine() != before


def test_gpus_and_their_driver_are_described(monkeypatch):
    gpu = SimpleNamespace(name="Fast GPU", total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    output = environment._output
    monkeypatch.setattr(
        environment,
        "_output",
        lambda command: "550.1\n550.1" if command[0] == "nvidia-smi" else output(command),
    )
    here = machine()
    assert (here.gpu, here.gpu_count, here.driver) == ("Fast GPU", 2, "550.1")
    assert here.gpu_memory_bytes == 80 << 30


def test_code_version_and_machine_are_stored_once(tmp_path, checkout):
    with open_store(tmp_path / "bench.db") as store:
        assert store.machine(machine()) == store.machine(machine())
        assert store.code_version(code_version(checkout)) == store.code_version(
            code_version(checkout)
        )
