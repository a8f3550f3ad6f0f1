"""The slots of workers, each on a GPU or on a core, and locks on devices."""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import torch

from bench.environment import cores, run_threads
from routers.errors import BenchError, RequestError, nearest

CPU = "cpu"


def slots(jobs: int | None, wanted: Sequence[str] = (), ranks: int = 1) -> tuple[str, ...]:
    """Return the device of each worker: GPUs as `CUDA_VISIBLE_DEVICES` calls them, or the CPU.

    Where several ranks share a training, a worker has a GPU for each, as "0,1".

    Args:
        jobs: workers, spread evenly; None takes one a GPU, or one a core of the CPU where each
            computes with one thread; 0 is this process, on the first device.
        wanted: devices; none takes every GPU, and the CPU where there is no GPU.
        ranks: the largest `train.ranks` of the trainings.

    Raises:
        RequestError: a device that is not there, or fewer GPUs than ranks.
    """
    there = gpus()
    known = (*there, CPU)
    for name in wanted:
        if name not in known:
            raise RequestError(f"there is no device {name!r}{nearest(name, known)}")
    if CPU in wanted and len(wanted) > 1:
        raise RequestError(f"the CPU works alone or not at all: {','.join(wanted)}")
    names = tuple(dict.fromkeys(wanted)) or there or (CPU,)
    if CPU not in names:
        if len(names) < ranks:
            raise RequestError(
                f"train.ranks = {ranks} needs {ranks} GPUs, one for each rank; usable here: "
                f"{', '.join(names)}"
            )
        groups = zip(*(names[place::ranks] for place in range(ranks)), strict=False)
        names = tuple(map(",".join, groups))
    if jobs is None:
        jobs = cores() // (run_threads() * ranks) if CPU in names else len(names)
    return tuple(names[number % len(names)] for number in range(max(jobs, 1)))


def refuse_few_gpus(ranks: int, each: int) -> None:
    """Refuse a training whose ranks are more than the GPUs of each worker of an array.

    Args:
        each: GPUs of a worker; 0 where it computes on the CPU.

    Raises:
        RequestError: a rank would have none.
    """
    if 0 < each < ranks:
        raise RequestError(
            f"train.ranks = {ranks} needs {ranks} GPUs, one for each rank, and each worker has "
            f"{each}: set cluster.gpus = {ranks}"
        )


def gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use, without initialising any of them."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(count))
    return tuple(name.strip() for name in names)[:count]


def devices_of(slot: str) -> list[str]:
    """Return the names of the devices of a slot."""
    return slot.split(",")


def own_device(name: str) -> torch.device:
    """Return a device by name, in a process that sees all devices."""
    return torch.device(CPU) if name == CPU else torch.device("cuda", gpus().index(name))


def show_only(name: str) -> torch.device:
    """Limit this process, which has used no GPU yet, to a slot's devices; return the first."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if name == CPU else name
    return torch.device(CPU if name == CPU else "cuda")


ASK_AGAIN = 0.2
"""Seconds between two attempts to take a lock that another process holds."""


class StoppedWaiting(Exception):
    """A wait for a lock that was stopped before the lock was free."""


def lock_names(device: torch.device) -> list[str]:
    """Return the locks of a device, in the order in which they are taken; its own comes last."""
    if device.type == "cpu":
        return [CPU]
    if device.type == "cuda":
        return [CPU, f"gpu-{torch.cuda.get_device_properties(device).uuid}"]
    return [CPU, device.type]


def lock_file(name: str) -> Path:
    """Return the file of a lock."""
    return Path(tempfile.gettempdir(), "moe-router-bench", f"{name}.lock")


@contextmanager
def holding(
    device: torch.device,
    waiting: Callable[[str], None],
    stop: Callable[[], bool],
    *,
    alone: bool,
    others: Sequence[torch.device] = (),
) -> Iterator[None]:
    """Hold a device exclusively, as timings do, or share it with other holders, as trainings do.

    Args:
        waiting: called once, with the names of the holders, if this process must wait.
        stop: returns whether to stop waiting.
        alone: whether to hold the device exclusively.
        others: devices of a training's other ranks, to share with other holders as well.

    Raises:
        StoppedWaiting: `stop` returned True.
        BenchError: the file of a lock cannot be opened.
    """
    *shared, own = lock_names(device)
    more = {name for other in others for name in lock_names(other)} - {*shared, own}
    with ExitStack() as held:
        for name in (*shared, own, *sorted(more)):
            descriptor = _opened(lock_file(name))
            held.callback(os.close, descriptor)
            mode = fcntl.LOCK_EX if alone and name == own else fcntl.LOCK_SH
            if not _taken(descriptor, mode):
                waiting(_holders(descriptor))
                while not _taken(descriptor, mode):
                    if stop():
                        raise StoppedWaiting("it was asked to stop while it waited for the machine")
                    time.sleep(ASK_AGAIN)
            # The system deletes files there that were not touched for days.
            os.utime(descriptor)
        yield


def _taken(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(path: Path) -> int:
    """Open the file of a lock, creating it for every user of this machine if necessary."""
    try:
        path.parent.mkdir(exist_ok=True)
        with suppress(PermissionError):  # it belongs to another user, who has done so
            path.parent.chmod(0o1777)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
            path.chmod(0o666)
        # Not with O_CREAT: Linux refuses that for another user's file in such a folder.
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise BenchError(f"cannot use the lock {path}: {error.strerror}") from error


def _holders(descriptor: int) -> str:
    """Return the processes that hold the lock of an open file, as far as the system knows."""
    inode = os.fstat(descriptor).st_ino
    try:
        lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    pids = {
        int(fields[4])
        for fields in map(str.split, lines)
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode)
    }
    return ", ".join(sorted(set(filter(None, map(_command, pids))))) or "another process"


def _command(pid: int) -> str:
    """Return the command that a process belongs to; for a worker, that of its run."""
    try:
        process = psutil.Process(pid)
        for each in (process, *process.parents()):
            arguments = each.cmdline()
            if not any("multiprocessing" in word for word in arguments):
                return f"process {each.pid} ({' '.join(' '.join(arguments).split())})"
    except psutil.Error:
        pass  # it has ended, or belongs to another container
    return ""
