"""A real single-machine Slurm for one test session: munged, slurmctld and slurmd."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
PATH = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))

CONF = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=main Nodes=ALL Default=YES OverSubscribe=FORCE:3
"""
"""`cred_expire`: a requeued job waits for that many seconds instead of 120. Intervals: the
scheduler looks for jobs that can start every 2 seconds instead of every 30 to 60."""


def why_no_slurm() -> str | None:
    """Return why Slurm cannot be started here, or None if it can."""
    if find_spec("submitit") is None:
        return "submitit is not installed (pip install -e '.[dev]')"
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm and munge)"
    if socket.gethostbyname(socket.gethostname()).partition(".")[0] != "127":
        return "the name of this machine is not that of the loopback, where Slurm is started"
    return None


@contextmanager
def running_slurm() -> Iterator[Path]:
    """Start Slurm and yield its folder, which contains `slurm.conf`."""
    # Sockets need short paths; munged refuses folders that others may write to.
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    folder.chmod(0o755)
    munge = folder / "munge"
    (munge / "key").write_bytes(os.urandom(64))
    (munge / "key").chmod(0o400)
    conf = folder / "slurm.conf"
    ports = {"controller": _free_port(), "daemon": _free_port()}
    names = {"host": socket.gethostname().partition(".")[0], "user": getpass.getuser()}
    cpus = min(os.cpu_count() or 1, 2)
    conf.write_text(CONF.format(folder=folder, **names, **ports, cpus=cpus))
    called: list[tuple[str, ...]] = [
        (
            *("munged", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket"),
            *(f"--pid-file={munge}/pid", f"--seed-file={munge}/seed", f"--log-file={munge}/log"),
        ),
        ("slurmctld", "-f", str(conf)),
        ("slurmd", "-f", str(conf)),
    ]
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(conf)}
    try:
        for command in called:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + 60
        while "idle" not in _printed(("sinfo", "--noheader"), environment):
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.5)
        yield folder
    finally:
        _printed(("scancel", f"--user={names['user']}", "--signal=KILL", "--full"), environment)
        for name in ("slurmd", "slurmctld"):
            _end(folder / f"{name}.pid")
        _end(munge / "pid")
        shutil.rmtree(folder, ignore_errors=True)


def _printed(command: tuple[str, ...], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout


def _end(pid_file: Path) -> None:
    """End the process whose id a file holds, and wait for it."""
    if not pid_file.exists():
        return
    process = psutil.Process(int(pid_file.read_text()))
    process.terminate()
    deadline = time.monotonic() + 30
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
