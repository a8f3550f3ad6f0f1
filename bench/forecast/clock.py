"""Seconds of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


class Clock:
    """Reads the time when a device has done what it was given."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> float:
        """Seconds from some moment on."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def seconds(self, work: Callable[[], object]) -> float:
        """That a piece of work takes."""
        began = self.now()
        work()
        return self.now() - began
