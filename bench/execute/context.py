"""What jobs need from their run, and how processes are set up to compute, log and stop."""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Self

import torch

from bench.data import Datasets
from bench.environment import keep_freed_memory, machine, run_threads
from bench.execute.devices import show_only
from bench.execute.events import OnEvent
from bench.execute.plugins import load_unchanged
from bench.plan import Retry
from bench.train import SAVE_EVERY
from results import Machine, Store


@dataclass(frozen=True)
class RunOptions:
    """The options for how a run works; none of them changes a result.

    Attributes:
        jobs: number of workers; None takes one per GPU, or on the CPU one per core. 0 works in
            this process.
        devices: the devices to use; all of them if it is empty.
        timeout: seconds for one job; None for no limit.
        save_every: seconds between two checkpoints of a training.
        retry: which trials that gave no result are tried again.
        plugins: the user's files that were loaded.
        command: the command line that started the run.
        prepared: whether another command has rehearsed the trainings and written the study, see
            `prepare_plan`.
        newest: the last attempt and measurement that `retry` covers; None for those at the start.
    """

    jobs: int | None = None
    devices: tuple[str, ...] = ()
    timeout: float | None = None
    save_every: float = SAVE_EVERY
    retry: Retry = None
    plugins: tuple[Path, ...] = ()
    command: str = ""
    prepared: bool = False
    newest: tuple[int, int] | None = None


@dataclass(frozen=True)
class RunContext:
    """The facts that all jobs of a run share, as plain data.

    Attributes:
        database: URL of the database, with its password.
        home: folder for everything that runs write.
        plugin_hashes: hash of the source of each of the user's files when the run began.
        machine_id, code_id: ids of the rows of this machine and of the running code.
    """

    database: str
    home: Path
    options: RunOptions
    plugin_hashes: Mapping[Path, str]
    machine_id: int
    code_id: int


@dataclass(frozen=True)
class JobContext:
    """The resources of one job in the process that does it.

    Attributes:
        stop: returns whether a training should save what it has and end.
    """

    run: RunContext
    store: Store
    datasets: Datasets
    device: torch.device
    emit: OnEvent
    stop: Callable[[], bool]


def trial_folder(home: Path, fingerprint: str) -> Path:
    """Return the folder of a trial's files."""
    return home / "trials" / fingerprint[:16]


def prepare_process() -> dict[str, str]:
    """Set this process up to compute; return the allocator's settings.

    The allocator keeps freed memory. One thread computes, unless `OMP_NUM_THREADS` says otherwise:
    the bits of a training depend on the number of threads and should not depend on the machine's
    cores, and threads that wait for each other become very slow when anything else runs.
    """
    torch.set_num_threads(run_threads())
    return keep_freed_memory()


def prepared_machine() -> Machine:
    """Set this process up to compute; return this machine. Timings depend on both."""
    allocator, here = prepare_process(), machine()
    return replace(here, settings={**here.settings, **allocator})


TAIL_LINES, TAIL_BYTES = 40, 8_000


def log_to(path: Path) -> None:
    """Append all output of this process, including libraries and crashes, to a UTF-8 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(  # type: ignore[union-attr]
            encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
    faulthandler.enable(file=2)


def log(text: str) -> None:
    """Print a line to the log, with the time."""
    print(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}  {text}", flush=True)


def tail(path: Path) -> str | None:
    """Return the last lines of a log, or None if there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    return "\n".join(text.splitlines()[-TAIL_LINES:]) or None


def begin_process(log: Path, device: str, plugins: Mapping[Path, str]) -> torch.device:
    """Set up this process to log to a file, see one slot's devices and end with its parent.

    Returns:
        The first device, as this process sees it.

    Raises:
        PluginChangedError: see `load_unchanged`.
    """
    threading.Thread(target=_die_with_parent, daemon=True).start()
    log_to(log)
    own = show_only(device)
    prepare_process()
    load_unchanged(plugins)
    return own


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "the terminal was closed",
}


class Interrupts:
    """A listener for signals inside a `with`, in the main thread; `reason` names the first one.

    The second signal raises KeyboardInterrupt; while that ends the run, further ones do nothing.
    Signals that are ignored, such as SIGHUP under nohup, stay ignored.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._raised = False
        self._before: dict[signal.Signals, signal.Handlers | object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def sleep(self, seconds: float) -> None:
        """Wait for this many seconds, or until a signal asks to leave."""
        end = time.monotonic() + seconds
        while self.reason is None and time.monotonic() < end:
            time.sleep(0.05)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._raised:
            return
        if self.reason is not None:
            self._raised = True
            raise KeyboardInterrupt
        self.reason = SIGNALS[signal.Signals(number)]
