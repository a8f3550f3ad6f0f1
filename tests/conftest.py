"""What every test shares, so that results depend on neither the machine nor the shell.

One thread, however many cores there are; the usual signals, since what a shell starts in the
background ignores Ctrl-C, and so would every process that a test starts; and a temporary folder of
each test process's own, in which the locks of devices lie, so that tests wait neither for each
other nor for a run of the user's.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.util import Finalize
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # where `tmp_path` stays
tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="bench-tests-")
# After multiprocessing has removed what it keeps there, at the priority -100.
Finalize(None, shutil.rmtree, (tempfile.tempdir,), {"ignore_errors": True}, exitpriority=-200)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent.parent

# A slow machine is not a failing property.
hypothesis.settings.register_profile("bench", deadline=None, derandomize=True)
hypothesis.settings.load_profile("bench")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_imported_stays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A plugin of one test, and what lies beside it, is not found by the next."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    base = tmp_path_factory.getbasetemp()
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
