"""System load: the work of other processes while something is timed.

Cores that others kept busy = (CPU time of the whole system - this process's own, with all of its
threads) / time that went by. Time that a hypervisor took away counts as theirs, waiting for a disk
does not. They may be as many as the caller allows on a CPU, where caches, memory and clock rates
are shared, or a twentieth of all cores where that is more. A timing on a GPU is disturbed by what
else computes there, and by others on the CPU only where they leave no core to the process that
launches the kernels: half of the logical cores are allowed, since two of these may share one core.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import psutil
import torch

from suites.support.timing import wait

Result = TypeVar("Result")

SHORTEST = 0.5
"""Seconds to watch at least: the system counts CPU time in steps of some 10 ms."""

TRIES, WAIT = 4, 2.0
"""Most tries of a disturbed timing, and seconds between two of them."""

GPU_SAMPLE = 1.0
"""Seconds over which nvidia-smi averages the use of a GPU, at most."""

GPU_LIMIT = 0.05
"""Share of the time that others may use a GPU."""


@dataclass(frozen=True)
class Clocks:
    """The seconds that went by, that all processors worked, and that this process worked."""

    wall: float
    system: float
    own: float

    @classmethod
    def now(cls) -> Clocks:
        return cls(time.perf_counter(), busy_seconds(), time.process_time())

    def others_since(self, start: Clocks) -> float:
        """Return the cores that other processes kept busy."""
        theirs = (self.system - start.system) - (self.own - start.own)
        return max(0.0, theirs / (self.wall - start.wall))


@dataclass(frozen=True)
class Timed(Generic[Result]):
    """The result of a timing, and the load of others meanwhile; None where it is unknown.

    Attributes:
        cores: that others kept busy, on average.
        gpu: share of the time in which they computed on the GPU, just after the timing.
        excess: that load over what is allowed of it; 0 where any is.
    """

    result: Result
    cores: float | None
    gpu: float | None
    excess: float

    @property
    def disturbed(self) -> bool:
        """Whether others did more than is allowed."""
        return self.excess > 1


class QuietTimer:
    """A timer that repeats disturbed timings, until the machine is quiet or it gives up.

    If it stays busy, the least disturbed timing is kept, and said to be disturbed. After that the
    next timings get a single try, until one is not disturbed: a machine that stays busy is not
    waited for again and again.

    Args:
        device: the device that the timings run on.
        max_load: cores that other processes may keep busy on a CPU; None takes any load.
    """

    def __init__(self, device: torch.device, max_load: float | None) -> None:
        self._device, self._limit = device, allowed_cores(max_load, device)
        self._tries = TRIES

    @property
    def judges(self) -> bool:
        """Whether there is a load from which a timing counts as disturbed."""
        return self._limit is not None

    def time(self, timing: Callable[[], Result]) -> Timed[Result]:
        """Return the first undisturbed of a few timings, else the least disturbed."""
        best = self._once(timing)
        for _ in range(self._tries - 1):
            if not best.disturbed:
                break
            time.sleep(WAIT)
            best = min(best, self._once(timing), key=lambda timed: timed.excess)
        self._tries = 1 if best.disturbed else TRIES
        return best

    def _once(self, timing: Callable[[], Result]) -> Timed[Result]:
        start = Clocks.now()
        result = timing()
        cores, gpu = _load_since(start, self._device, patient=self.judges)
        above = 0.0 if self._limit is None else excess(cores, gpu, self._limit)
        return Timed(result, cores, gpu, above)


def allowed_cores(max_load: float | None, device: torch.device) -> float | None:
    """Return the cores that other processes may keep busy; None for any number."""
    if max_load is None:
        return None
    return max(max_load, (psutil.cpu_count() or 1) / (20 if device.type == "cpu" else 2))


def excess(cores: float | None, gpu: float | None, limit: float) -> float:
    """Return the load of others over what is allowed, on the CPU or GPU, whichever is more."""
    return max((cores or 0.0) / limit, (gpu or 0.0) / GPU_LIMIT)


def busy_seconds() -> float:
    """Return the CPU time of all processes since the system started."""
    times = psutil.cpu_times()._asdict()
    # The time of a virtual machine's guests is part of `user`.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return sum(seconds for kind, seconds in times.items() if kind not in idle)


def gpu_use(uuid: str) -> float | None:
    """Share of the last moment in which kernels ran on a GPU; None where nobody tells."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.check_output(
            [*command, f"--id={uuid}"], timeout=20, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    use = output.decode(errors="replace").strip()
    return int(use) / 100 if use.isdecimal() else None


def _load_since(
    start: Clocks, device: torch.device, patient: bool
) -> tuple[float | None, float | None]:
    """Return the load of the cores and of the GPU by others, None where it is unknown.

    Where too little time went by to tell, `patient` watches on.
    """
    if patient:
        time.sleep(max(0.0, SHORTEST - (time.perf_counter() - start.wall)))
    end = Clocks.now()
    cores = end.others_since(start) if end.wall - start.wall >= SHORTEST else None
    if device.type != "cuda" or not patient:
        return cores, None
    wait(device)
    time.sleep(GPU_SAMPLE)  # what is used then is used by others
    return cores, gpu_use(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
