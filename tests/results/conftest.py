"""A fresh database for each test, in SQLite and in PostgreSQL.

Where PostgreSQL cannot be started, its tests are skipped and say why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from results import CodeVersion, Machine, Store, Subject, open_store


def postgres_binaries() -> Path | None:
    """Return the folder of `initdb`; Debian keeps it off the PATH."""
    places = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        *(Path(folder) for folder in os.environ["PATH"].split(os.pathsep)),
    ]
    return next((place for place in places if (place / "initdb").exists()), None)


def as_server_user() -> list[str]:
    """Return what to put before a command, because the server refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


def why_no_postgres() -> str | None:
    """Return why no server can be started here, or None if one can."""
    if find_spec("psycopg") is None:
        return "the driver psycopg is not installed (pip install -e '.[dev]')"
    if postgres_binaries() is None:
        return "no PostgreSQL server is installed (initdb is not found)"
    probe = [*as_server_user(), "true"]
    if shutil.which(probe[0]) is None or subprocess.run(probe, check=False).returncode != 0:
        return "PostgreSQL does not run as root, and there is no user postgres to run it as"
    return None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The server URL, without a database, of a throw-away PostgreSQL cluster."""
    if reason := why_no_postgres():
        pytest.skip(reason)
    # Not under TMPDIR: another user has to reach it, and the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    binaries, data = postgres_binaries(), f"{folder}/data"
    settings = f"-c listen_addresses='' -k {folder} -c fsync=off"
    # Cleans up when its input ends, so also if the tests are killed.
    clear = f"cat; {binaries}/pg_ctl -D {data} -m immediate stop; rm -rf {folder}"
    watcher = subprocess.Popen(
        [*as_server_user(), "sh", "-c", clear],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )

    def command(name: str, *arguments: str) -> None:
        call = [*as_server_user(), f"{binaries}/{name}", "-D", data, *arguments]
        done = subprocess.run(call, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        identity = ("--auth=trust", "--username=bench", "--encoding=UTF8", "--locale=C")
        command("initdb", *identity, "--no-sync")
        command("pg_ctl", "--wait", "-l", f"{folder}/log", "-o", settings, "start")
        yield f"postgresql://bench@/{{database}}?host={folder}"
    finally:
        watcher.communicate(timeout=60)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The path or URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "bench.db")
        return
    server = request.getfixturevalue("postgres")
    import psycopg

    database = f"bench_{uuid.uuid4().hex}"
    with psycopg.connect(server.format(database="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}")
        yield server.format(database=database)
        connection.execute(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.fixture
def store(target: str) -> Iterator[Store]:
    with open_store(target) as opened:
        yield opened


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "bench.db") as opened:
        yield opened


MACHINE = Machine("node1", "Linux 6.1", "EPYC 7B13", cores=2, threads=1, memory_bytes=8 * 2**30)
CODE = CodeVersion("0123456789abcdef", dirty=False, python="3.11.7", libraries={"torch": "2.6.0"})


def describe(router: str = "soft_moe", seed: int = 0, **changes: object) -> dict[str, object]:
    """Make a trial's description as the engine writes it. Changes: `experts__num_experts=32`."""
    description: dict[str, object] = {
        "router": {"name": router, "options": {"capacity_factor": 1.0}},
        "experts": {"name": "mlp", "num_experts": 8, "options": {}},
        "model": {"name": "vit_tiny_patch16_224", "options": {"depth": 4}, "layers": "last2"},
        "data": {"name": "digits", "augment": {"flip": False}},
        "train": {"epochs": 2, "lr": 0.001, "losses": {}},
        "compute": {"match": "total_flops", "tolerance": 0.01},
        "seed": seed,
    }
    for path, value in changes.items():
        *folders, name = path.split("__")
        place = description
        for folder in folders:
            place = place[folder]  # type: ignore[assignment]
        place[name] = value
    return description


@dataclass(frozen=True)
class Filler:
    """A helper that fills a store as the engine does."""

    store: Store
    machine: int
    code: int

    def trial(
        self,
        description: dict[str, object],
        fingerprint: str | None = None,
        study: str | None = "tiny",
        status: str = "done",
    ) -> int:
        """Add a trial with one ended attempt to a study; return the attempt's id."""
        trial = self.store.trials([Subject(fingerprint or uuid.uuid4().hex, description)])[0]
        if study is not None:
            self.store.add_trial_to_study(self.store.study(study, {}), trial)
        attempt = self.store.begin_attempt(trial, self.machine, self.code, log="logs/1.txt")
        self.store.finish_attempt(attempt, status, flops=1e9, steps=10, seconds=2.5)
        return attempt


@pytest.fixture
def filler(store: Store) -> Filler:
    return Filler(store, store.machine(MACHINE), store.code_version(CODE))


@pytest.fixture(scope="session")
def description() -> Callable[..., dict[str, object]]:
    return describe
