"""Where workers work: one slot each, on a GPU or on a core."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from bench.environment import cores, run_threads
from routers.errors import RequestError, nearest

CPU = "cpu"


def devices(wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The devices to work on: GPUs as `CUDA_VISIBLE_DEVICES` calls them, or the CPU alone.

    Args:
        wanted: some of them; none takes every GPU, and the CPU where there is no GPU.

    Raises:
        RequestError: one that is not there.
    """
    there = gpus()
    for name in wanted:
        if name not in (*there, CPU):
            known = (*there, CPU)
            raise RequestError(
                f"there is no device {name!r}{nearest(name, known)}; there are: {', '.join(known)}"
            )
    if CPU in wanted and len(wanted) > 1:
        raise RequestError(f"the CPU works alone or not at all: {','.join(wanted)}")
    return tuple(dict.fromkeys(wanted)) or there or (CPU,)


def slots(jobs: int | None, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The device of each worker.

    Args:
        jobs: workers, spread evenly; None takes one a GPU, or one a core of the CPU where each
            computes with one thread; 0 is this process, on the first device.
        wanted: see `devices`.
    """
    found = devices(wanted)
    count = default_jobs(found) if jobs is None else jobs
    return tuple(found[number % len(found)] for number in range(max(count, 1)))


def default_jobs(found: Sequence[str]) -> int:
    """One worker a GPU; on the CPU as many as have cores for their threads."""
    return max(1, cores() // run_threads()) if CPU in found else len(found)


def gpus() -> tuple[str, ...]:
    """The GPUs that this process may use; asking touches none of them."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(count))
    return tuple(name.strip() for name in names)[:count]


def own_device(name: str) -> torch.device:
    """A device by name, as a process sees it that was shown all of them."""
    return torch.device(CPU) if name == CPU else torch.device("cuda", gpus().index(name))


def show_only(name: str) -> torch.device:
    """Let this process, which has touched no GPU yet, see one device alone; returns it."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if name == CPU else name
    return torch.device(CPU if name == CPU else "cuda")
