"""Databases that may only be read, whatever a writer has left beside them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from results import StoreError, connect, describe, open_store

pytestmark = pytest.mark.slow

UNSHARE = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
ROOT = Path(__file__).parents[2]
STUDIES = """
import sys
from results import open_store
with open_store(sys.argv[1], create=False) as store:
    print(*sorted(study.name for study in store.studies()))
"""


def mounted_read_only(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command for which a folder is mounted read-only: root could write to it otherwise."""
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    return subprocess.run(
        [*UNSHARE, "sh", "-c", script, str(folder), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    return mounted_read_only(folder, ["true"]).returncode == 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of results; the test is skipped if none can be mounted read-only."""
    made = tmp_path / "a home"
    made.mkdir()
    if not can_mount(made):
        pytest.skip("no folder can be mounted read-only here (unshare --mount)")
    with open_store(made / "bench.db") as store:
        store.study("before", {})
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def read(home: Path) -> str:
    """Return the studies that a process without write access reads; ensure it changes nothing."""
    before = contents(home)
    done = mounted_read_only(home, [sys.executable, "-c", STUDIES, str(home / "bench.db")])
    assert done.returncode == 0, done.stderr
    assert contents(home) == before
    return done.stdout.strip()


def test_a_database_that_nobody_works_on_can_be_read(home: Path) -> None:
    assert read(home) == "before"


def test_a_database_that_somebody_works_on_can_be_read(home: Path) -> None:
    with open_store(home / "bench.db") as store:
        store.study("now", {})
        assert {"bench.db-wal", "bench.db-shm"} <= contents(home).keys()
        assert read(home) == "before now"
        store.study("later", {})
        assert read(home) == "before later now"


@pytest.mark.parametrize("kept", [("-wal",), ("-wal", "-shm")], ids="".join)
def test_the_write_ahead_log_of_a_copy_is_read_too(home: Path, tmp_path: Path, kept) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with open_store(home / "bench.db") as store:
        store.study("now", {})
        for ending in ("", *kept):
            shutil.copyfile(home / f"bench.db{ending}", copy / f"bench.db{ending}")
    assert read(copy) == "before now"


def test_commands_that_only_read_need_no_write_access(home: Path, tmp_path: Path) -> None:
    bench = [sys.executable, "-B", str(ROOT / "bench.py")]
    before = contents(home)
    for command in (
        ["status"],
        ["db", "info"],
        ["db", "export", str(tmp_path / "out.csv")],
        ["report", "--out", str(tmp_path / "report")],
    ):
        done = mounted_read_only(home, [*bench, *command, "--home", str(home)])
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out.csv").exists()
    assert (tmp_path / "report" / "index.html").exists()
    done = mounted_read_only(home, [*bench, "report", "--home", str(home)])
    assert done.returncode == 2
    assert "--out names another folder" in done.stderr
    assert contents(home) == before


@pytest.fixture
def forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """A function after whose call no database appears to be writable."""

    def forbid() -> Path:
        monkeypatch.setattr(connect, "may_only_be_read", lambda file: True)
        return tmp_path / "bench.db"

    return forbid


def test_a_write_is_refused_and_the_scratch_copy_is_removed_on_close(
    tmp_path: Path, forbidden, monkeypatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(connect.tempfile, "tempdir", str(scratch))
    with open_store(tmp_path / "live.db") as live:
        live.study("now", {})
        for ending in ("", "-wal"):
            shutil.copyfile(tmp_path / f"live.db{ending}", tmp_path / f"bench.db{ending}")
    with open_store(forbidden()) as store:
        assert [study.name for study in store.studies()] == ["now"]
        assert describe(store).studies[0].name == "now"
        assert len(list(scratch.iterdir())) == 1
        with pytest.raises(StoreError, match=r"cannot write to .*bench\.db.*readonly"):
            store.study("then", {})
    assert not list(scratch.iterdir())
