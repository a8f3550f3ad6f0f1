"""The doctor finds what is broken, says how to mend it, and leaves nothing behind."""

from __future__ import annotations

import io
import re
import shutil
import sqlite3
import sys
import tempfile
from collections import namedtuple

import psutil
import pytest
import torch
from rich.console import Console

import suites.balance
from bench import environment
from bench.cli import main
from bench.cli.doctor import Finding, diagnose, render
from results import open_store
from routers.plugins import PluginFailure


@pytest.fixture
def look(tmp_path):
    """Findings by name, of a home folder that does not exist yet."""

    def diagnosed(home=tmp_path / "runs", database=None, plugins=()) -> dict[str, Finding]:
        return dict(diagnose(home, database or str(home / "bench.db"), plugins))

    return diagnosed


def test_this_machine_is_fit(look, tmp_path):
    found = look()
    assert all(finding.status != "fail" for finding in found.values()), found
    assert found["torch"].detail == torch.__version__
    assert "8,000 images" in found["data"].detail
    assert re.fullmatch(r"\d+ known answers, all measured right", found["suites"].detail)
    assert "none yet" in found["database"].detail
    assert list(tmp_path.iterdir()) == []


def test_a_suite_that_measures_wrongly_fails(look, monkeypatch):
    monkeypatch.setattr(suites.balance, "gini", lambda counts: 0.5)
    found = look()["suites"]
    assert found.status == "fail"
    assert "'balance' measures demand_gini = 0.5" in found.detail
    assert "cannot be trusted" in found.mend


def test_a_database_that_is_there_is_opened(look, tmp_path):
    file = tmp_path / "runs" / "bench.db"
    with open_store(file) as store:
        store.study("first", {})
    found = look()["database"]
    assert found.status == "ok"
    assert "1 study" in found.detail


def test_a_database_of_another_program_fails(look, tmp_path):
    file = tmp_path / "other.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE cars (id INTEGER)")
    connection.close()
    found = look(database=str(file))["database"]
    assert found.status == "fail"
    assert "other.db" in found.detail


def test_a_file_that_is_no_database_fails(look, tmp_path):
    file = tmp_path / "bench.db"
    file.write_text("not a database, but long enough to be looked at " * 30)
    assert look(database=str(file))["database"].status == "fail"


def test_a_database_on_a_network_disk_is_warned_of(look, tmp_path, monkeypatch):
    Partition = namedtuple("Partition", "mountpoint fstype")
    mounts = [Partition("/", "ext4"), Partition(str(tmp_path.resolve()), "nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    found = look()["database"]
    assert found.status == "warn"
    assert "nfs4" in found.detail


def test_a_home_that_cannot_be_written_fails(look, monkeypatch):
    """Permissions do not stop root, so the refusal is made."""

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    found = look()["home"]
    assert found.status == "fail"
    assert "Permission denied" in found.detail
    assert "--home" in found.mend


def test_a_home_below_a_file_fails(look, tmp_path):
    (tmp_path / "file").write_text("")
    found = look(home=tmp_path / "file" / "runs")["home"]
    assert found.status == "fail"
    assert "is a file" in found.detail


def test_a_full_disk_is_warned_of(look, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 10**9, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert look()["home"].status == "warn"


def test_damaged_images_fail(look, monkeypatch):
    monkeypatch.setattr("bench.data.fashion_mnist_mini.CONTENT_HASH", "0" * 64)
    found = look()["data"]
    assert found.status == "fail"
    assert "images.npz" in found.mend


def test_images_that_cannot_be_read_fail(look, monkeypatch, tmp_path):
    monkeypatch.setattr("bench.data.fashion_mnist_mini.FILE", tmp_path / "missing.npz")
    found = look()["data"]
    assert found.status == "fail"
    assert "missing.npz" in found.detail


def test_more_threads_than_cores_are_warned_of(look, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: environment.cores() + 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = look()["threads"]
    assert found.status == "ok"
    assert found.detail.startswith("a run computes with 1 of")
    monkeypatch.setenv("OMP_NUM_THREADS", str(environment.cores() + 1))
    found = look()["threads"]
    assert found.status == "warn"
    assert found.mend == f"set OMP_NUM_THREADS={environment.cores()}"


@pytest.mark.parametrize(("load", "status"), [(0.0, "ok"), (1000.0, "warn")])
def test_a_busy_machine_is_warned_of(look, monkeypatch, load, status):
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, load, load))
    assert look()["load"].status == status


def test_a_gpu_that_torch_cannot_use_is_warned_of(look, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    found = look()["device"]
    assert found.status == "warn"
    assert "CUDA" in found.mend


def test_a_torch_that_does_not_import_fails_and_the_rest_is_looked_at(look, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = look()
    assert found["torch"].status == "fail"
    assert "pip install" in found["torch"].mend
    assert found["home"].status == "ok"


def test_a_broken_entry_point_is_warned_of(look, monkeypatch):
    failures = [PluginFailure("x", "entry point x = x cannot be imported: x.py:1: …")]
    monkeypatch.setattr("routers.load_entry_points", lambda: failures)
    found = look()["plugins"]
    assert found.status == "warn"
    assert "x.py:1" in found.detail


def test_a_broken_plugin_fails(look, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import nothing_of_that_name\n")
    found = look(plugins=[file])
    assert found["plugin mine.py"].status == "fail"
    assert "mine.py:1: import nothing_of_that_name" in found["plugin mine.py"].detail


def test_the_table_says_what_to_do():
    findings = [("a", Finding("ok", "fine")), ("b", Finding("fail", "broken", "mend it"))]
    console = Console(file=io.StringIO(), width=80)
    console.print(render(findings))
    shown = console.file.getvalue()
    assert "→ mend it" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_machine_that_is_not_fit_ends_with_status_1(monkeypatch, tmp_path):
    for status, code in (("warn", 0), ("fail", 1)):
        monkeypatch.setattr(
            "bench.cli.doctor.diagnose", lambda *_, s=status: [("a", Finding(s, ""))]
        )
        with pytest.raises(SystemExit) as exited:
            main(["doctor", "--home", str(tmp_path)])
        assert exited.value.code == code
