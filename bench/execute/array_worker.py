"""One worker of an array: the command that submitted it, again, in a process that can be asked.

The class travels to the worker by value, so that it needs nothing there but submitit.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

IN_ARRAY = "BENCH_IN_ARRAY"
"""The environment variable that says to a command that it is a worker of an array, and the numbers
of the attempt and the measurement that were the newest when the array was submitted."""
PR_SET_PDEATHSIG = 1
"""The option of prctl(2) that names the signal a process gets when its parent ends."""
RESUMABLE = 75
"""Exit status of such a command that could not go on, and that the same command continues."""


def in_array() -> bool:
    """Tell whether this command is a worker of an array."""
    return IN_ARRAY in os.environ


def array_began() -> tuple[int, int] | None:
    """Return what was newest when the array of this worker was submitted; None outside of one."""
    if not in_array():
        return None
    attempt, measurement = os.environ[IN_ARRAY].split(",")
    return int(attempt), int(measurement)


class ArrayWorker:
    """A worker: does jobs of a study until none is left, and can be requeued.

    Args:
        command: the program and its arguments.
        folder: the folder in which the command was given.
        newest: the attempt and the measurement that are the newest now: each worker retries no
            later ones, however often it is requeued.
        gpus: the GPUs that it may use, as `CUDA_VISIBLE_DEVICES` has them; None leaves the
            cluster's choice.
        save_seconds: seconds for saving what is trained, before the worker is killed.
        limit: seconds after which it is killed.
    """

    RESTARTS = 20
    """Times that a command which could not go on is given again: the database may be restarting."""
    LONGEST_PAUSE = 60.0
    """Seconds between two of them, at most."""
    REQUEUE_SECONDS = 15.0
    """Seconds that are kept for the request to be requeued."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        newest: tuple[int, int],
        gpus: str | None,
        save_seconds: float,
        limit: float,
    ) -> None:
        self._command, self._folder, self._newest = list(command), str(folder), newest
        self._gpus, self._save_seconds, self._limit = gpus, save_seconds, limit
        self._pid: int | None = None
        self._stopping = False

    def __call__(self) -> int:
        """Do jobs until none is left; returns the command's exit status.

        Raises:
            RuntimeError: the command ended too early, and not because it was asked to.
        """
        signal.signal(signal.SIGTERM, lambda *_: self._request_stop())
        self._watch_limit()
        for restart in range(self.RESTARTS + 1):
            status = self._run()
            if self._stopping:
                self._await_end()
                raise RuntimeError("stopped: its trainings are saved")
            if status in (0, 1):
                return status
            if status != RESUMABLE and status > 0:
                break
            time.sleep(min(2.0**restart, self.LONGEST_PAUSE))
        raise RuntimeError(f"the command ended with exit status {status}")

    def checkpoint(self) -> Any:
        """Save and end what is trained; returns what submitit is to requeue: the same worker."""
        from submitit.helpers import DelayedSubmission

        self._request_stop()
        end = time.monotonic() + max(self._save_seconds - self.REQUEUE_SECONDS, 1.0)
        while self._alive():
            if time.monotonic() > end and self._pid is not None:
                # It goes on from its last checkpoint; its workers end with it.
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.1)
        self._pid, self._stopping = None, False
        return DelayedSubmission(self)

    def _watch_limit(self) -> None:
        """Send this process the signal of the time limit in time: Slurm's own may come too late."""
        number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
        signal.setitimer(signal.ITIMER_REAL, max(self._limit - self._save_seconds, 1.0))

    def _run(self) -> int:
        """Give the command once; returns its exit status, negative where a signal ended it."""
        environment = {**os.environ, IN_ARRAY: ",".join(map(str, self._newest))}
        if self._gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus
        process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_listen_to_one_signal,
        )
        # Not by its own `wait`, whose lock a signal's handler would wait for in vain.
        self._pid = process.pid
        if self._stopping:
            os.kill(self._pid, signal.SIGINT)
        try:
            _, code = os.waitpid(self._pid, 0)
        except ChildProcessError:  # `checkpoint` has waited for it
            code = 0
        self._pid = None
        process.returncode = os.waitstatus_to_exitcode(code)
        return process.returncode

    def _request_stop(self) -> None:
        """Ask the command to save and end, once: the second request would end it at once."""
        if not self._stopping and self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGINT)
        self._stopping = True

    def _alive(self) -> bool:
        if self._pid is None:
            return False
        with suppress(ChildProcessError):
            ended, _ = os.waitpid(self._pid, os.WNOHANG)
            return ended == 0
        return False

    def _await_end(self) -> None:
        """Wait to be killed, under Slurm: a worker that it pre-empts it requeues by itself.

        One that ended before would count as done.
        """
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            time.sleep(3600)


def _listen_to_one_signal() -> None:
    """Let this process be asked to stop by its worker alone.

    A cluster may send SIGTERM to the worker, or to all processes of a job.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if sys.platform == "linux":  # a worker that is killed leaves nothing behind
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
