"""The line of a component's own file at which something went wrong."""

from __future__ import annotations

import inspect
import linecache
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.check.outcome import Failed, NotFinite, WrongReturn
from routers import BenchError, Entry, Routing


def own_file(entry: Entry) -> str:
    """The file that defines a component."""
    return inspect.getsourcefile(entry.target) or ""


def crash(error: Exception, file: str, call: Callable[[], object]) -> str:
    """What a call raised, and at which line of the file; else which line returned before that."""
    notes = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
    where = raised_at(error, file) or not_finite_at(call, file) or returned_at(call, file)
    return f"{notes}{kind}{error}{where}"


def with_line(failure: Failed, file: str, call: Callable[[], object]) -> str:
    """A call's failure, with the line of the file that the wrong value came from."""
    line = not_finite_at(call, file) if isinstance(failure, NotFinite) else ""
    if not line and isinstance(failure, NotFinite | WrongReturn):
        line = returned_at(call, file)
    return f"{failure}{line}"


def raised_at(error: BaseException, file: str) -> str:
    """`, at FILE:LINE: SOURCE` where the error passed through the file last; else empty."""
    frames = traceback.extract_tb(error.__traceback__)
    return _line(file, [frame.lineno or 0 for frame in frames if frame.filename == file][-1:])


def returned_at(call: Callable[[], object], file: str) -> str:
    """Where the file first returns a routing in this call; else where it last returns a value."""
    routings: list[int] = []
    values: list[int] = []

    def note(frame: FrameType, event: str, value: Any) -> None:
        if event == "return" and value is not None and frame.f_code.co_filename == file:
            (routings if isinstance(value, Routing) else values).append(frame.f_lineno)

    before = sys.getprofile()
    sys.setprofile(note)
    with suppress(Exception):
        call()
    sys.setprofile(before)
    return _line(file, routings[:1] or values[-1:])


def not_finite_at(call: Callable[[], object], file: str) -> str:
    """Where the file first makes a NaN or +infinity in this call; else empty."""
    watch = _FirstNotFinite(file)
    with suppress(Exception), watch:
        call()
    return _line(file, watch.lines[:1])


class _FirstNotFinite(TorchFunctionMode):
    """A watch on a file's operations for NaN and +infinity; -infinity is usual in masks."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.lines: list[int] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, Tensor) and (value.isnan() | value.isposinf()).any():
                self._note(sys._getframe(1))
        return result

    def _note(self, frame: FrameType | None) -> None:
        # Not beyond the call that is watched: the component's file may have begun it.
        while frame is not None and frame.f_code.co_filename not in (self.file, __file__):
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename == self.file:
            self.lines.append(frame.f_lineno)


def _line(file: str, numbers: list[int]) -> str:
    if not numbers:
        return ""
    linecache.checkcache(file)
    return f", at {file}:{numbers[0]}: {linecache.getline(file, numbers[0]).strip()}"
