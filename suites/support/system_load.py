"""System load: the work of other processes while something is timed.

Cores that others kept busy = (CPU time of the whole system - this process's own, with all of its
threads) / elapsed time. Time taken away by a hypervisor counts as theirs, waiting for a disk does
not. On a CPU, where caches, memory and clock rates are shared, others may use as many cores as the
caller allows, or a twentieth of all if that is more. A timing on a GPU is disturbed by other work
there, and by others on the CPU only if they leave no core to the process that launches the kernels:
half of the logical cores are allowed, since two of these may share one core.
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
"""Minimum seconds to observe: the system counts CPU time in steps of about 10 ms."""

TRIES, WAIT = 4, 2.0
"""Maximum number of tries of a disturbed timing, and seconds between two of them."""

GPU_SAMPLE = 1.0
"""Most seconds over which nvidia-smi averages the use of a GPU."""

GPU_LIMIT = 0.05
"""Share of the time that others may use a GPU."""


@dataclass(frozen=True)
class Clocks:
    """Elapsed seconds, those that all processors worked, and those that this process worked."""

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
    """The result of a timing, and the load of others meanwhile, None if unknown.

    Attributes:
        cores: cores that others kept busy, on average.
        gpu: share of the time in which others used the GPU, just after the timing.
        excess: that load over what is allowed; 0 if any load is.
    """

    result: Result
    cores: float | None
    gpu: float | None
    excess: float

    @property
    def disturbed(self) -> bool:
        """Whether the load of others exceeds what is allowed."""
        return self.excess > 1


class QuietTimer:
    """A timer that repeats disturbed timings until the machine is quiet or it gives up.

    If the machine stays busy, the least disturbed timing is kept and marked as disturbed. After
    that, timings get a single try until one is undisturbed, so as not to wait again and again for a
    machine that stays busy.

    Args:
        device: the device that the timings run on.
        max_load: cores that other processes may keep busy on a CPU; None allows any load.
    """

    def __init__(self, device: torch.device, max_load: float | None) -> None:
        self._device, self._limit = device, allowed_cores(max_load, device)
        self._tries = TRIES

    @property
    def judges(self) -> bool:
        """Whether there is a limit above which a timing counts as disturbed."""
        return self._limit is not None

    def time(self, timing: Callable[[], Result]) -> Timed[Result]:
        """Return the first undisturbed of a few timings, or else the least disturbed."""
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
    """Return how many cores other processes may keep busy; None for any number."""
    if max_load is None:
        return None
    return max(max_load, (psutil.cpu_count() or 1) / (20 if device.type == "cpu" else 2))


def excess(cores: float | None, gpu: float | None, limit: float) -> float:
    """Return the load of others over what is allowed, on the CPU or GPU, whichever is higher."""
    return max((cores or 0.0) / limit, (gpu or 0.0) / GPU_LIMIT)


def busy_seconds() -> float:
    """Return the CPU time of all processes since the system started."""
    times = psutil.cpu_times()._asdict()
    # The time of a virtual machine's guests is part of `user`.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return sum(seconds for kind, seconds in times.items() if kind not in idle)


def gpu_use(uuid: str) -> float | None:
    """Return the share of the last moment in which kernels ran on a GPU; None if unknown."""
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
    """Return the load of others on the cores and on the GPU, each None if unknown.

    If too little time has passed to tell, `patient` keeps observing.
    """
    if patient:
        time.sleep(max(0.0, SHORTEST - (time.perf_counter() - start.wall)))
    end = Clocks.now()
    cores = end.others_since(start) if end.wall - start.wall >= SHORTEST else None
    if device.type != "cuda" or not patient:
        return cores, None
    wait(device)
    time.sleep(GPU_SAMPLE)  # any use now is by others
    return cores, gpu_use(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
