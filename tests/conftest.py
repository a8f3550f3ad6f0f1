"""Shared setup of all tests, which makes results independent of the machine and the shell.

It sets one thread, whatever the number of cores; the usual signal handlers, since a shell makes
background jobs ignore Ctrl-C, and their child processes inherit that; and a temporary folder for
each test process, which contains the device locks, so that tests wait neither for each other nor
for one of the user's runs.
"""

import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.util import Finalize
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
from sqlalchemy import Engine, event

from bench.cli import main

torch.set_num_threads(1)
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # where `tmp_path` remains
tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="bench-tests-")
# After multiprocessing has removed its own files there, at priority -100.
Finalize(None, shutil.rmtree, (tempfile.tempdir,), {"ignore_errors": True}, exitpriority=-200)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent.parent
LONG = (
    *("overnight/", "test_cli_", "test_docs.py", "bench/tune/", "report/test_figures.py"),
    *("report/test_simulation.py", "report/test_claims_simulated.py", "suites/", "tools/"),
    *("bench/model/test_gpu_forward.py", "bench/test_locks.py", "bench/test_ranks.py"),
)
"""Prefixes of files that take more than a minute or spend most of their time waiting."""

# A slow machine must not make a property fail.
hypothesis.settings.register_profile("bench", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("bench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long files first: a file runs in one process, and a long last one would delay the end."""
    items.sort(key=lambda item: not item.nodeid.removeprefix("tests/").startswith(LONG))


@event.listens_for(Engine, "connect")
def _wait_for_no_disk(connection: object, _record: object) -> None:
    """Let the system decide when SQLite's commits reach the disk: no test cuts the power.

    Processes that the bench starts still wait for the disk, as they do for users.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def waits_for_disk() -> Iterator[None]:
    """Open databases as for users, whose commits wait for the disk."""
    event.remove(Engine, "connect", _wait_for_no_disk)
    yield
    event.listen(Engine, "connect", _wait_for_no_disk)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_imported_stays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide a test's plugin, and the modules beside it, from the next test."""
    with _unloading(tmp_path_factory.getbasetemp()):
        yield


@contextmanager
def _unloading(base: Path) -> Iterator[None]:
    """A context after which plugins, and modules from a folder, are unloaded."""
    modules, path = set(sys.modules), list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if name.startswith("plugins_") or (file and Path(file).is_relative_to(base)):
                del sys.modules[name]


@pytest.fixture(scope="session")
def bench() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`bench(folder, *arguments, status=0)`: run a command in its own process, with its home."""

    def run(folder: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(ROOT / "bench.py"), *arguments],
            cwd=folder,
            env={**os.environ, "BENCH_HOME": str(folder / "runs")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


@contextmanager
def _unregistering() -> Iterator[None]:
    """A context after which components registered within it are unregistered."""
    from bench.data import DATASETS
    from bench.model import EXPERTS
    from routers import AFFINITIES, LOSSES, ROUTERS
    from suites import SUITES

    registries = (ROUTERS, AFFINITIES, LOSSES, EXPERTS, SUITES, DATASETS)
    before = [set(registry.names()) for registry in registries]
    try:
        yield
    finally:
        for registry, names in zip(registries, before, strict=True):
            for name in set(registry.names()) - names:
                registry.discard(name)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A context in a folder that contains the home; it leaves no trace in this process."""
    with chdir(folder), pytest.MonkeyPatch.context() as patch, _unregistering(), _unloading(folder):
        patch.setenv("BENCH_HOME", str(folder / "runs"))
        yield


@pytest.fixture(scope="session")
def in_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Like `bench`, but in this process, which has already loaded torch.

    A command that runs in workers still trains in separate processes.
    """

    def run(folder: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with (
            _alone(folder),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as exited,
        ):
            main(arguments)
        done = subprocess.CompletedProcess(
            arguments, int(exited.value.code or 0), out.getvalue(), err.getvalue()
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run
