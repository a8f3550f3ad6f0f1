"""One worker of an array: the command that submitted it, run again in a process of its own.

The class is pickled by value, so that the worker needs only submitit.
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
"""The environment variable that marks a command as a worker of an array. Its value is the numbers
of the newest attempt and measurement at the time the array was submitted."""
PR_SET_PDEATHSIG = 1
"""The option of prctl(2) that sets the signal a process gets when its parent ends."""
RESUMABLE = 75
"""Exit status of a worker's command that could not continue, and that the same command resumes."""
SOME_FAILED = 76
"""Exit status of a worker's command that did all its jobs, some of which failed. Python itself
exits with 1 on an error, so 1 says nothing about the jobs."""


def in_array() -> bool:
    """Tell whether this command is a worker of an array."""
    return IN_ARRAY in os.environ


def array_began() -> tuple[int, int] | None:
    """Return what was newest when this worker's array was submitted; None outside an array."""
    if not in_array():
        return None
    attempt, measurement = os.environ[IN_ARRAY].split(",")
    return int(attempt), int(measurement)


class ArrayWorker:
    """A worker: does jobs of a study until none is left, and can be requeued.

    Args:
        command: the program and its arguments.
        folder: the folder in which the command was run.
        newest: the newest attempt and measurement at present: a worker retries no later ones,
            however often it is requeued.
        gpus: the GPUs that it may use, as in `CUDA_VISIBLE_DEVICES`; None leaves the choice to
            the cluster.
        save_seconds: seconds for saving trainings before the worker is killed.
        limit: seconds after which it is killed.
    """

    RESTARTS = 20
    """How often a command that could not continue is run again: the database may be restarting."""
    LONGEST_PAUSE = 60.0
    """Most seconds between two restarts."""
    REQUEUE_SECONDS = 15.0
    """Seconds reserved for the request to be requeued."""

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
        """Do jobs until none is left; return the command's exit status.

        Raises:
            RuntimeError: the command ended too early, or the worker was asked to stop.
        """
        signal.signal(signal.SIGTERM, lambda *_: self._request_stop())
        self._watch_limit()
        for restart in range(self.RESTARTS + 1):
            status = self._run()
            if self._stopping:
                self._await_end()
                raise RuntimeError("stopped: its trainings are saved")
            if status in (0, SOME_FAILED):
                return status
            if status != RESUMABLE and status > 0:
                break
            time.sleep(min(2.0**restart, self.LONGEST_PAUSE))
        raise RuntimeError(f"the command ended with exit status {status}")

    def checkpoint(self) -> Any:
        """Save and end the trainings; return what submitit requeues, the same worker."""
        from submitit.helpers import DelayedSubmission

        self._request_stop()
        end = time.monotonic() + max(self._save_seconds - self.REQUEUE_SECONDS, 1.0)
        while self._alive():
            if time.monotonic() > end and self._pid is not None:
                # Trainings continue from their last checkpoints; the workers end with the command.
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.1)
        self._pid, self._stopping = None, False
        return DelayedSubmission(self)

    def _watch_limit(self) -> None:
        """Schedule the signal of the time limit for this process: Slurm's may come too late."""
        number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
        signal.setitimer(signal.ITIMER_REAL, max(self._limit - self._save_seconds, 1.0))

    def _run(self) -> int:
        """Run the command once; return its exit status, negative if a signal ended it."""
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
        # Not `Popen.wait`: a signal handler would wait for its lock forever.
        self._pid = process.pid
        if self._stopping:
            os.kill(self._pid, signal.SIGINT)
        _, code = os.waitpid(self._pid, 0)
        self._pid = None
        process.returncode = os.waitstatus_to_exitcode(code)
        return process.returncode

    def _request_stop(self) -> None:
        """Ask the command to save and end, only once: a second request would end it at once."""
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
        """Wait to be killed, under Slurm, which itself requeues a worker that it preempts.

        A worker that ended before would count as done.
        """
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            time.sleep(3600)


def _listen_to_one_signal() -> None:
    """Let only its worker ask this process to stop.

    A cluster may send SIGTERM to the worker, or to all processes of a job.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if sys.platform == "linux":  # a worker that is killed leaves nothing behind
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
