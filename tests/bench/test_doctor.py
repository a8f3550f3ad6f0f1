"""The doctor finds what is broken, says how to fix it, and leaves nothing behind."""

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
def findings_of(tmp_path):
    """Return the findings by name for a home folder that does not exist yet."""

    def diagnosed(home=tmp_path / "runs", database=None, plugins=()) -> dict[str, Finding]:
        return dict(diagnose(home, database or str(home / "bench.db"), plugins))

    return diagnosed


def test_this_machine_passes_every_check(findings_of, tmp_path):
    findings = findings_of()
    assert all(finding.status != "fail" for finding in findings.values()), findings
    assert findings["torch"].detail == torch.__version__
    assert "8,000 images" in findings["data"].detail
    assert re.fullmatch(r"\d+ known answers, all measured right", findings["suites"].detail)
    assert "none yet" in findings["database"].detail
    assert list(tmp_path.iterdir()) == []


def test_a_suite_that_measures_wrongly_is_a_failed_check(findings_of, monkeypatch):
    monkeypatch.setattr(suites.balance, "gini", lambda counts: 0.5)
    finding = findings_of()["suites"]
    assert finding.status == "fail"
    assert "'balance' measures demand_gini = 0.5" in finding.detail
    assert "cannot be trusted" in finding.mend


def test_an_existing_database_is_opened(findings_of, tmp_path):
    file = tmp_path / "runs" / "bench.db"
    with open_store(file) as store:
        store.study("first", {})
    finding = findings_of()["database"]
    assert finding.status == "ok"
    assert "1 study" in finding.detail


def test_a_database_of_another_program_fails(findings_of, tmp_path):
    file = tmp_path / "other.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE cars (id INTEGER)")
    connection.close()
    finding = findings_of(database=str(file))["database"]
    assert finding.status == "fail"
    assert "other.db" in finding.detail


def test_a_file_that_is_no_database_fails(findings_of, tmp_path):
    file = tmp_path / "bench.db"
    file.write_text("not a database, but long enough to be looked at " * 30)
    assert findings_of(database=str(file))["database"].status == "fail"


def test_a_database_on_a_network_disk_fails(findings_of, tmp_path, monkeypatch):
    Partition = namedtuple("Partition", "mountpoint fstype")
    mounts = [Partition("/", "ext4"), Partition(str(tmp_path.resolve()), "nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    finding = findings_of()["database"]
    assert finding.status == "fail"
    assert "nfs4" in finding.detail
    assert "--db postgresql://" in finding.mend
    assert "db merge" in finding.mend


def test_a_home_that_cannot_be_written_fails(findings_of, monkeypatch):
    """Permissions do not stop root, so the test fakes the refusal."""

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    finding = findings_of()["home"]
    assert finding.status == "fail"
    assert "Permission denied" in finding.detail
    assert "--home" in finding.mend


def test_a_home_inside_a_file_fails(findings_of, tmp_path):
    (tmp_path / "file").write_text("")
    finding = findings_of(home=tmp_path / "file" / "runs")["home"]
    assert finding.status == "fail"
    assert "is a file" in finding.detail


def test_a_nearly_full_disk_gives_a_warning(findings_of, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 10**9, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert findings_of()["home"].status == "warn"


def test_damaged_images_fail(findings_of, monkeypatch):
    monkeypatch.setattr("bench.data.fashion_mnist_mini.CONTENT_HASH", "0" * 64)
    finding = findings_of()["data"]
    assert finding.status == "fail"
    assert "images.npz" in finding.mend


def test_unreadable_images_fail(findings_of, monkeypatch, tmp_path):
    monkeypatch.setattr("bench.data.fashion_mnist_mini.FILE", tmp_path / "missing.npz")
    finding = findings_of()["data"]
    assert finding.status == "fail"
    assert "missing.npz" in finding.detail


def test_more_threads_than_cores_give_a_warning(findings_of, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: environment.cores() + 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    finding = findings_of()["threads"]
    assert finding.status == "ok"
    assert finding.detail.startswith("a run computes with 1 of")
    monkeypatch.setenv("OMP_NUM_THREADS", str(environment.cores() + 1))
    finding = findings_of()["threads"]
    assert finding.status == "warn"
    assert finding.mend == f"set OMP_NUM_THREADS={environment.cores()}"


@pytest.mark.parametrize(("load", "status"), [(0.0, "ok"), (1000.0, "warn")])
def test_a_busy_machine_gives_a_warning(findings_of, monkeypatch, load, status):
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, load, load))
    assert findings_of()["load"].status == status


def test_a_gpu_that_torch_cannot_use_gives_a_warning(findings_of, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    finding = findings_of()["device"]
    assert finding.status == "warn"
    assert "CUDA" in finding.mend


def test_a_torch_that_cannot_be_imported_fails_and_the_other_checks_still_run(
    findings_of, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch", None)
    findings = findings_of()
    assert findings["torch"].status == "fail"
    assert "pip install" in findings["torch"].mend
    assert findings["home"].status == "ok"


def test_a_broken_entry_point_gives_a_warning(findings_of, monkeypatch):
    failures = [PluginFailure("x", "entry point x = x cannot be imported: x.py:1: …")]
    monkeypatch.setattr("routers.load_entry_points", lambda: failures)
    finding = findings_of()["plugins"]
    assert finding.status == "warn"
    assert "x.py:1" in finding.detail


def test_a_broken_plugin_fails(findings_of, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import nothing_of_that_name\n")
    finding = findings_of(plugins=[file])
    assert finding["plugin mine.py"].status == "fail"
    assert "mine.py:1: import nothing_of_that_name" in finding["plugin mine.py"].detail


def test_the_table_says_what_to_do():
    findings = [("a", Finding("ok", "fine")), ("b", Finding("fail", "broken", "mend it"))]
    console = Console(file=io.StringIO(), width=80)
    console.print(render(findings))
    shown = console.file.getvalue()
    assert "→ mend it" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_failed_check_ends_with_status_1(monkeypatch, tmp_path):
    for status, code in (("warn", 0), ("fail", 1)):
        monkeypatch.setattr(
            "bench.cli.doctor.diagnose", lambda *_, s=status: [("a", Finding(s, ""))]
        )
        with pytest.raises(SystemExit) as exited:
            main(["doctor", "--home", str(tmp_path)])
        assert exited.value.code == code
