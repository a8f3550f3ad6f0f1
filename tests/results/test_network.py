"""SQLite on a network file system is read, and never written."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from bench.cli import main
from results import StoreError, load_study, open_store
from results.connect import connect, resolve
from results.files import NETWORK, network_file_system
from results.migrate import upgrade

LOCAL = ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "apfs", "9p", "")
MOUNTED = [
    ("/", "ext4"),
    ("/home", "autofs"),
    ("/home", "nfs4"),
    ("/home/me/scratch", "xfs"),
    ("/data", "lustre"),
]


class Partition(NamedTuple):
    mountpoint: str
    fstype: str


def mount(monkeypatch: pytest.MonkeyPatch, mounted: list[tuple[str, str]]) -> None:
    partitions = [Partition(*each) for each in mounted]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: partitions)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/runs/bench.db", ""),
        ("/home/me/bench.db", "nfs4"),  # the later of two mounts hides the other
        ("/home/me/scratch/a/b/bench.db", ""),
        ("/home/me/scratches/bench.db", "nfs4"),
        ("/data", "lustre"),
        ("/database/bench.db", ""),
        ("/data/../runs/bench.db", ""),
    ],
)
def test_a_path_belongs_to_the_nearest_mount_above_it(path: str, kind: str, monkeypatch) -> None:
    mount(monkeypatch, MOUNTED)
    assert network_file_system(Path(path)) == kind


def test_links_are_resolved_before_looking_up_the_mount(tmp_path: Path, monkeypatch) -> None:
    mount(monkeypatch, MOUNTED)
    (tmp_path / "link").symlink_to("/data")
    assert network_file_system(tmp_path / "link" / "bench.db") == "lustre"


def test_without_a_mount_table_nothing_is_known(monkeypatch) -> None:
    assert psutil.disk_partitions(all=True)
    mount(monkeypatch, [])
    assert network_file_system(Path("/runs")) == ""


@pytest.mark.parametrize("kind", [*NETWORK, "nfs4", "smb3", "fuse.cephfs", *LOCAL])
def test_each_kind_of_file_system_is_classified_as_local_or_network(kind: str, monkeypatch) -> None:
    mount(monkeypatch, [("/", kind)])
    assert network_file_system(Path("/x/bench.db")) == ("" if kind in LOCAL else kind)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with a study, in a folder that then appears to be on a network file system."""
    folder = tmp_path / "shared"
    with open_store(folder / "bench.db") as store:
        store.study("tiny", {})
    mount(monkeypatch, [("/", "ext4"), (str(folder.resolve()), "nfs4")])
    return folder / "bench.db"


def test_a_writer_is_refused_with_the_alternatives(shared: Path, tmp_path: Path) -> None:
    message = (
        r"bench.db lies on a network file system \(nfs4\), .* locks .*: name a PostgreSQL server, "
        r"`--db postgresql://.*`, or .*`python bench.py db merge A.db B.db`"
    )
    for attempt in (open_store, upgrade, lambda file: connect(resolve(file))):
        with pytest.raises(StoreError, match=message):
            attempt(shared)
    with pytest.raises(StoreError, match=message):
        open_store(shared.parent / "new" / "bench.db")
    assert [file.name for file in shared.parent.iterdir()] == ["bench.db"]
    open_store(tmp_path / "local.db").close()


def test_a_reader_reads_it_and_writes_nothing(shared: Path) -> None:
    before = shared.read_bytes()
    with open_store(shared, create=False) as store:
        assert [study.name for study in store.studies()] == ["tiny"]
        with pytest.raises(StoreError, match=r"cannot write to .*readonly"):
            store.study("other", {})
    assert load_study("tiny", db=shared).trials.empty
    assert [file.name for file in shared.parent.iterdir()] == ["bench.db"]
    assert shared.read_bytes() == before


def test_a_command_that_writes_there_ends_with_one_message(shared: Path, capsys) -> None:
    for command in (["run", "--preset", "smoke", "--no-report"], ["db", "upgrade"]):
        with pytest.raises(SystemExit) as exited:
            main([*command, "--home", str(shared.parent)])
        assert exited.value.code == 2
        error = capsys.readouterr().err
        assert error.count("error:") == 1
        assert "network file system (nfs4)" in error
    with pytest.raises(SystemExit) as exited:
        main(["db", "info", "--home", str(shared.parent)])
    assert exited.value.code == 0
