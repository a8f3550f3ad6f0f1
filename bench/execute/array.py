"""Arrays of workers, submitted with submitit to Slurm, or in the same way to this machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from bench.config import ClusterConfig
from bench.execute import array_worker
from bench.execute.array_worker import ArrayWorker
from bench.execute.devices import gpus
from results.store.leases import this_host
from routers.errors import BenchError, RequestError

ExecutorName = Literal["slurm", "local"]
REQUEUES = 1000
"""How often a worker is requeued when its time limit is reached."""


@dataclass(frozen=True)
class ArrayRecord:
    """A submitted array, as `home/cluster/STUDY.json` stores it.

    Attributes:
        jobs: submitit's job id of each worker.
        arguments: the arguments of the command that submitted it.
        host: the host on which its workers are processes; None under Slurm.
        folder: folder of submitit's files, with the output of each worker.
    """

    study: str
    executor: ExecutorName
    jobs: tuple[str, ...]
    arguments: tuple[str, ...]
    command: str
    submitted_at: str
    host: str | None
    folder: str

    def write(self, home: Path) -> None:
        """Write the record to where `stop` finds it."""
        path = _path(home, self.study)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @property
    def name(self) -> str:
        """The name shown to users: `Slurm array 12`."""
        if self.executor == "slurm":
            return f"Slurm array {self.jobs[0].partition('_')[0]}"
        return f"local array of {self.submitted_at}"

    def states(self) -> Counter[str]:
        """Return the number of workers that have not ended, by state in lower case.

        Raises:
            BenchError: Slurm does not answer.
        """
        if self.executor == "slurm":
            return Counter(_slurm_states(self.jobs[0].partition("_")[0]))
        return Counter("running" for _ in self._processes())

    def statuses(self) -> list[int]:
        """Return the exit status of each worker that ended by itself."""
        from submitit.core.utils import JobPaths, pickle_load

        ended = []
        for job in self.jobs:
            with suppress(OSError, EOFError):
                outcome, value = pickle_load(JobPaths(self.folder, job).result_pickle)
                if outcome == "success":
                    ended.append(value)
        return ended

    def stop(self) -> None:
        """Ask all workers to save their trainings and end; cancel those that are still pending.

        Raises:
            BenchError: Slurm does not answer.
        """
        if self.executor == "slurm":
            array = self.jobs[0].partition("_")[0]
            done = _run(["scancel", array])
            if done.returncode != 0:
                raise BenchError(f"scancel {array} failed: {' '.join(done.stderr.split())}")
            return
        for process in self._processes():
            for each in [process, *process.children(recursive=True)]:
                with suppress(psutil.Error):
                    if "submitit.core._submit" in each.cmdline():
                        each.send_signal(signal.SIGTERM)

    def _processes(self) -> Iterator[psutil.Process]:
        """Yield the processes on this host that each control a worker."""
        if self.host != this_host():
            return
        for job in self.jobs:
            with suppress(psutil.Error):
                process = psutil.Process(int(job))
                # Another process may have this id by chance.
                if self.folder in " ".join(process.cmdline()):
                    yield process


def read_array(home: Path, study: str) -> ArrayRecord | None:
    """Return the array that was submitted last for a study, or None."""
    try:
        fields = json.loads(_path(home, study).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    tuples = {name: tuple(fields[name]) for name in ("jobs", "arguments")}
    return ArrayRecord(**{**fields, **tuples})


def submit_array(
    study: str,
    executor: ExecutorName,
    workers: int,
    config: ClusterConfig,
    home: Path,
    command: str,
    newest: tuple[int, int],
) -> ArrayRecord:
    """Submit workers that each run the command of this process again, and record the array.

    Args:
        newest: see `ArrayWorker`.

    Raises:
        BenchError: Slurm refuses the array.
    """
    import cloudpickle
    import submitit

    folder = home / "cluster" / study
    folder.mkdir(parents=True, exist_ok=True)
    auto = submitit.AutoExecutor(
        folder,
        cluster=executor,
        slurm_max_num_timeout=REQUEUES,
        # The signal of the time limit goes to the script's shell, so the shell becomes the worker.
        slurm_python=f"exec {shlex.quote(sys.executable)}",
    )
    auto.update_parameters(**_parameters(study, executor, config))
    arguments = tuple(sys.argv[1:])
    again = [sys.executable, *sys.argv]
    members = [
        ArrayWorker(
            again,
            Path.cwd(),
            newest,
            _gpus_of(number, executor, config),
            config.save_seconds,
            60.0 * _minutes(executor, config),
        )
        for number in range(workers)
    ]
    cloudpickle.register_pickle_by_value(array_worker)
    try:
        with _out_of_the_terminals_reach(), auto.batch():
            jobs = [auto.submit(member) for member in members]
    except submitit.core.utils.FailedJobError as error:
        raise BenchError(f"Slurm refuses the array: {' '.join(str(error).split())}") from error
    finally:
        cloudpickle.unregister_pickle_by_value(array_worker)
    made = ArrayRecord(
        study=study,
        executor=executor,
        jobs=tuple(job.job_id for job in jobs),
        arguments=arguments,
        command=command,
        submitted_at=datetime.now().astimezone().isoformat(timespec="seconds"),
        host=None if executor == "slurm" else this_host(),
        folder=str(folder),
    )
    made.write(home)
    return made


def refuse_missing(executor: ExecutorName) -> None:
    """Refuse an executor if something that it needs is not installed.

    Raises:
        RequestError: something is missing; the message says what to install.
    """
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError as error:
        raise RequestError(
            f"--executor {executor} needs submitit, which is not installed: "
            "`pip install 'moe-router-bench[cluster]'`"
        ) from error
    if executor == "slurm" and shutil.which("sbatch") is None:
        raise RequestError(
            "--executor slurm: this machine has no `sbatch`, so it cannot submit to Slurm; use a "
            "login node of the cluster, or --executor local, whose workers run on this machine"
        )


def _parameters(study: str, executor: ExecutorName, config: ClusterConfig) -> dict[str, Any]:
    """Return submitit's parameters: the resources of each worker, and its signals."""
    import submitit

    setup = list(config.setup)
    names = ("partition", "account", "qos", "constraint")
    signal_name = submitit.JobEnvironment.USR_SIG
    # Slurm may send the signal as soon as the script starts, and it must not end the script: once
    # the worker runs, it keeps track of the time itself.
    ignored = f"trap '' {signal_name}"
    return {
        "name": f"moe-{study}",
        "timeout_min": _minutes(executor, config),
        "gpus_per_node": config.gpus or None,
        "cpus_per_task": config.cpus,
        "mem_gb": config.memory_gb,
        **{f"slurm_{name}": getattr(config, name) for name in names},
        "slurm_setup": [ignored, *setup],
        # A shell without a trap may become its last command, whose parent submitit takes for it.
        "local_setup": [*setup, "trap : 0"] if setup else None,
        "slurm_use_srun": False,
        "slurm_signal_delay_s": config.save_seconds,
        "slurm_additional_parameters": {
            "signal": f"B:{signal_name}@{config.save_seconds}",
            "requeue": True,
        },
    }


def _minutes(executor: ExecutorName, config: ClusterConfig) -> int:
    """Return a worker's time limit: a year here, since submitit restarts it only five times."""
    return config.minutes if executor == "slurm" else 365 * 24 * 60


def worker_gpus(executor: ExecutorName, config: ClusterConfig) -> int:
    """Return the GPUs that each worker has."""
    return config.gpus if executor == "slurm" else min(max(config.gpus, 1), len(gpus()))


def _gpus_of(number: int, executor: ExecutorName, config: ClusterConfig) -> str | None:
    """Return the GPUs of a worker: all of this machine in turn; under Slurm, it chooses."""
    if executor == "slurm":
        return None
    there, each = gpus(), worker_gpus(executor, config)
    return ",".join(there[(number * each + place) % len(there)] for place in range(each))


@contextmanager
def _out_of_the_terminals_reach() -> Iterator[None]:
    """Keep Ctrl-C, the terminal and pipes away from processes that are started inside."""
    sys.stdout.flush()
    sys.stderr.flush()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    nowhere, own = os.open(os.devnull, os.O_RDWR), [os.dup(number) for number in range(3)]
    try:
        for number in range(3):
            os.dup2(nowhere, number)
        yield
    finally:
        for number, kept in enumerate(own):
            os.dup2(kept, number)
            os.close(kept)
        os.close(nowhere)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _slurm_states(array: str) -> Iterator[str]:
    called = ["squeue", "--noheader", "--array", "--format=%T", f"--jobs={array}"]
    done = _run(called)
    if done.returncode == 0:
        yield from map(str.lower, done.stdout.split())
    elif "Invalid job id" not in done.stderr:  # otherwise Slurm has forgotten it: it is over
        raise BenchError(f"Slurm does not answer: {' '.join(done.stderr.split())}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BenchError(f"this machine has no `{command[0]}`: use a login node") from error


def _path(home: Path, study: str) -> Path:
    return home / "cluster" / f"{study}.json"
