"""Whether a run still lives: by its process on this host, by its heartbeat on another."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import psutil

from results.records import RunRecord

STALE_SECONDS = 120
"""A run on another host that has been silent for so long is dead."""
CLOCK_SECONDS = 10
"""How far one process's start may seem to move when the host's clock is set."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
PIDS = Path("/proc/self/ns/pid")


def this_process() -> tuple[str, int, float]:
    """Host, process id and start (epoch seconds) of the process that calls."""
    return this_host(), os.getpid(), psutil.Process().create_time()


@cache
def this_host() -> str:
    """What a process id is a number on: a node since its start, and its container."""
    boot = BOOT.read_text(encoding="utf-8").strip() if BOOT.exists() else ""
    pids = os.readlink(PIDS) if PIDS.is_symlink() else ""
    return " ".join(filter(None, (platform.node(), boot, pids)))


def alive(run: RunRecord) -> bool:
    """Whether the run works still: it has not finished, and its process exists."""
    if run.finished_at is not None:
        return False
    if run.host == this_host():
        return _exists(run.pid, run.process_started)
    return (datetime.now(UTC) - run.heartbeat_at).total_seconds() < STALE_SECONDS


def _exists(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < CLOCK_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
