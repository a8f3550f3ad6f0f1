"""Ctrl-C and its like: once asks a run to save and leave, twice ends it at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Self

SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "the terminal was closed",
}


class Interrupts:
    """A listener for signals inside a `with`, in the main thread; `reason` says who asked to leave.

    The second signal raises KeyboardInterrupt; while that ends the run, more of them do nothing.
    What is ignored, as SIGHUP under nohup, stays so.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._raised = False
        self._before: dict[signal.Signals, signal.Handlers | object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def asked(self) -> bool:
        """Return whether somebody asked to leave."""
        return self.reason is not None

    def sleep(self, seconds: float) -> None:
        """Wait so many seconds, or until somebody asks to leave."""
        end = time.monotonic() + seconds
        while self.reason is None and time.monotonic() < end:
            time.sleep(0.05)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._raised:
            return
        if self.reason is not None:
            self._raised = True
            raise KeyboardInterrupt
        self.reason = SIGNALS[signal.Signals(number)]
