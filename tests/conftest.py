"""What every test shares, so that results depend on neither the machine nor the shell.

One thread, however many cores there are; the usual signals, since what a shell starts in the
background ignores Ctrl-C, and so would every process that a test starts; and a temporary folder of
each test process's own, in which the locks of devices lie, so that tests wait neither for each
other nor for a run of the user's.
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
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # where `tmp_path` stays
tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="bench-tests-")
# After multiprocessing has removed what it keeps there, at the priority -100.
Finalize(None, shutil.rmtree, (tempfile.tempdir,), {"ignore_errors": True}, exitpriority=-200)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent.parent
LONG = (
    *("overnight/", "test_cli_", "test_docs.py", "bench/tune/", "report/test_figures.py"),
    *("report/test_simulation.py", "report/test_claims_simulated.py", "suites/", "tools/"),
    *("bench/model/test_gpu_forward.py", "bench/test_locks.py", "bench/test_ranks.py"),
)
"""Where files begin that take more than a minute, and what waits most of its time."""

# A slow machine is not a failing property.
hypothesis.settings.register_profile("bench", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("bench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Do long files first: a file goes to one process, and the last one to begin ends the tests."""
    items.sort(key=lambda item: not item.nodeid.removeprefix("tests/").startswith(LONG))


@event.listens_for(Engine, "connect")
def _wait_for_no_disk(connection: object, _record: object) -> None:
    """Let SQLite leave to the system when a commit reaches the disk: no test cuts the power.

    What the bench starts in processes of their own waits for the disk as it does for its users.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def waits_for_disk() -> Iterator[None]:
    """Databases are opened as they are for users."""
    event.remove(Engine, "connect", _wait_for_no_disk)
    yield
    event.listen(Engine, "connect", _wait_for_no_disk)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_imported_stays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A plugin of one test, and what lies beside it, is not found by the next."""
    with _unloading(tmp_path_factory.getbasetemp()):
        yield


@contextmanager
def _unloading(base: Path) -> Iterator[None]:
    """A context after which plugins, and modules from a folder, are not loaded any more."""
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
    """`bench(folder, *arguments, status=0)`: a command in a process of its own, with its home."""

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
    """A context after which no component has a name that it had not before."""
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
    """A context in a folder, with the home in it, of which nothing stays in this process."""
    with chdir(folder), pytest.MonkeyPatch.context() as patch, _unregistering(), _unloading(folder):
        patch.setenv("BENCH_HOME", str(folder / "runs"))
        yield


@pytest.fixture(scope="session")
def in_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command as `bench` gives it, run in this process, which has loaded torch already.

    What a command that runs in workers trains, it trains in processes of their own all the same.
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
