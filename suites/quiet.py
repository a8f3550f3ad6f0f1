"""Whether the machine was quiet while something was timed: what other processes did meanwhile.

Cores that others kept busy = (CPU time of the whole system - this process's own, with all of its
threads) / time that went by. Time that a hypervisor took away counts as theirs, waiting for a disk
does not. They may be as many as the caller allows on a CPU, where caches, memory and clock rates
are shared, or a twentieth of all cores where that is more. A timing on a GPU is disturbed by what
else computes there, and by others on the CPU only where they leave no core to the process that
launches the kernels: half of the logical cores are allowed, since two of these may share one core.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psutil
import torch

from routers.errors import BenchError

Result = TypeVar("Result")

SHORTEST = 0.5
"""Seconds to watch at least: the system counts CPU time in steps of some 10 ms."""

TRIES, WAIT = 4, 2.0
"""How often a disturbed timing is made, and seconds between two times."""

GPU_SAMPLE = 1.0
"""Seconds over which nvidia-smi averages the use of a GPU, at most."""

GPU_LIMIT = 0.05
"""Share of the time that others may use a GPU."""

NAMED = 3
"""Processes that an error names, at most."""


@dataclass(frozen=True)
class Load:
    """What other processes did; None where it is unknown.

    Attributes:
        cores: that they kept busy, on average.
        gpu: share of the time in which they computed on the GPU, just after the timing.
    """

    cores: float | None
    gpu: float | None = None


@dataclass(frozen=True)
class Clocks:
    """Seconds that went by, that all processors worked, and that this process worked."""

    wall: float
    system: float
    own: float

    @classmethod
    def now(cls) -> Clocks:
        return cls(time.perf_counter(), busy_seconds(), time.process_time())

    def others_since(self, start: Clocks) -> float:
        """Cores that other processes kept busy."""
        theirs = (self.system - start.system) - (self.own - start.own)
        return max(0.0, theirs / (self.wall - start.wall))


def undisturbed(
    timing: Callable[[], Result], device: torch.device, max_load: float | None
) -> tuple[Result, Load]:
    """Time something while the machine is quiet.

    Args:
        timing: does it; again where it was disturbed.
        device: where it computes.
        max_load: cores that other processes may keep busy on a CPU; None takes any load.

    Returns:
        What `timing` gave, and the load of others meanwhile.

    Raises:
        BenchError: others disturbed it each time; the message names the busiest.
    """
    limit = allowed_cores(max_load, device)
    for _ in range(TRIES):
        start = Clocks.now()
        result = timing()
        load = _load_since(start, device, patient=limit is not None)
        why = "" if limit is None else disturbed(load, limit)
        if not why:
            return result, load
        busiest = busiest_processes(WAIT)
    named = f" ({busiest})" if busiest else ""
    raise BenchError(
        f"the machine is not quiet: other processes {why}{named}; max_load allows {limit:g} cores"
    )


def allowed_cores(max_load: float | None, device: torch.device) -> float | None:
    """Cores that others may keep busy; None for any number."""
    if max_load is None:
        return None
    return max(max_load, (psutil.cpu_count() or 1) / (20 if device.type == "cpu" else 2))


def disturbed(load: Load, limit: float) -> str:
    """What others did that is too much; "" where nothing was."""
    if load.gpu is not None and load.gpu > GPU_LIMIT:
        return f"compute on the GPU {100 * load.gpu:.0f} % of the time"
    if load.cores is not None and load.cores > limit:
        return f"keep {load.cores:.1f} cores busy"
    return ""


def busy_seconds() -> float:
    """CPU time of everything since the system started, whatever psutil calls it there."""
    times = psutil.cpu_times()._asdict()
    # The time of a virtual machine's guests is part of `user`.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return sum(seconds for kind, seconds in times.items() if kind not in idle)


def busiest_processes(seconds: float) -> str:
    """Who keeps the machine busy for the next seconds: `python 1.0, chromium 0.3`, in cores."""
    before, start = _cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    after, passed = _cpu_seconds(), time.perf_counter() - start
    cores: defaultdict[str, float] = defaultdict(float)
    for process, worked in after.items():
        cores[process.info["name"] or "?"] += (worked - before.get(process, 0.0)) / passed
    busiest = sorted(cores.items(), key=lambda one: -one[1])[:NAMED]
    return ", ".join(f"{name} {load:.1f}" for name, load in busiest if load >= 0.05)


def gpu_use(uuid: str) -> float | None:
    """Share of the last moment in which kernels ran on a GPU; None where nobody tells."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [*command, f"--id={uuid}"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    told = done.stdout.strip()
    return int(told) / 100 if told.isdecimal() else None


def _load_since(start: Clocks, device: torch.device, patient: bool) -> Load:
    """The load until now; `patient` watches on where too little time went by to tell."""
    if patient:
        time.sleep(max(0.0, SHORTEST - (time.perf_counter() - start.wall)))
    end = Clocks.now()
    cores = end.others_since(start) if end.wall - start.wall >= SHORTEST else None
    if device.type != "cuda" or not patient:
        return Load(cores)
    torch.cuda.synchronize(device)
    time.sleep(GPU_SAMPLE)  # what is used then is used by others
    return Load(cores, gpu_use(f"GPU-{torch.cuda.get_device_properties(device).uuid}"))


def _cpu_seconds() -> dict[psutil.Process, float]:
    """CPU time of every other process that may be looked at."""
    others = psutil.process_iter(["name", "cpu_times"])
    return {
        process: process.info["cpu_times"].user + process.info["cpu_times"].system
        for process in others
        if process.info["cpu_times"] and process.pid != os.getpid()
    }
