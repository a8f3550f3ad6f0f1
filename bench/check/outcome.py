"""Results of conformance checks as plain data, and the lines of code that failures name."""

from __future__ import annotations

import inspect
import linecache
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.overrides import TorchFunctionMode

from routers import BenchError, Entry, Routing

Status = Literal["passed", "failed", "not run", "not applicable"]


class Failed(Exception):
    """A failed check, with the numbers in its message."""


class NotFinite(Failed):
    """A check that failed on NaN or infinite entries."""


class WrongReturn(Failed):
    """A check that failed on a result of the wrong type or shape."""


class NotApplicable(Exception):
    """A check that does not apply, with the reason in its message."""


@dataclass(frozen=True)
class CheckResult:
    """One check of one component, over all its settings.

    Attributes:
        meaning: what holds where it passes.
        status: "not applicable" where there is nothing to check, "not run" where a failure of
            another check leaves nothing to check with.
        detail: on failure, under which setting and with which numbers; else what is worth saying.
        follows: on failure, another check that failed and may be the reason; else empty.
    """

    name: str
    meaning: str
    status: Status
    detail: str = ""
    follows: str = ""


@dataclass(frozen=True)
class CheckReport:
    """All checks of one component.

    Attributes:
        kind: "router", "experts", "loss" or "dataset".
        name: by which it is registered.
        settings: the hyper-parameters of each configuration that was checked.
        note: why there is nothing to check, for a baseline.
        seconds: how long the checks took.
    """

    kind: str
    name: str
    results: tuple[CheckResult, ...] = ()
    settings: tuple[str, ...] = ()
    note: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> list[CheckResult]:
        """The checks that failed."""
        return [result for result in self.results if result.status == "failed"]

    @property
    def causes(self) -> list[CheckResult]:
        """The failures that no other failure explains."""
        return [result for result in self.failures if not result.follows]


def own_file(entry: Entry) -> str:
    """Return the file that defines a component."""
    return inspect.getsourcefile(entry.target) or ""


def crash(error: Exception, file: str, call: Callable[[], object]) -> str:
    """Say what a call raised, and at which line of the file; else which line returned before."""
    notes = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
    where = raised_at(error, file) or not_finite_at(call, file) or returned_at(call, file)
    return f"{notes}{kind}{error}{where}"


def with_line(failure: Failed, file: str, call: Callable[[], object]) -> str:
    """Return a call's failure, with the line of the file that the wrong value came from."""
    line = not_finite_at(call, file) if isinstance(failure, NotFinite) else ""
    if not line and isinstance(failure, NotFinite | WrongReturn):
        line = returned_at(call, file)
    return f"{failure}{line}"


def raised_at(error: BaseException, file: str) -> str:
    """Return `, at FILE:LINE: SOURCE` where the error passed through the file last; else empty."""
    frames = traceback.extract_tb(error.__traceback__)
    return _line(file, [frame.lineno or 0 for frame in frames if frame.filename == file][-1:])


def returned_at(call: Callable[[], object], file: str) -> str:
    """Find where the file first returns a routing in a call; else where it last returns a value."""
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
    """Find where the file first makes a NaN or +infinity in a call; else empty."""
    watch = _FirstNotFinite(file)
    with suppress(Exception), watch:
        call()
    return _line(file, watch.lines[:1])


class _FirstNotFinite(TorchFunctionMode):
    """A mode that finds where a file's operations make NaN or +infinity; masks have -infinity."""

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


STYLES = {"passed": "green", "failed": "bold red", "not run": "yellow", "not applicable": "dim"}


def render(report: CheckReport) -> RenderableType:
    """Print the checks, what each means, and below the table what failed, with its numbers."""
    if report.note:
        return Text(f"{report.name}: {report.note}")
    table = Table(title=f"Checks of {report.kind} {report.name}", title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("what it means", ratio=1)
    table.add_column("result", no_wrap=True)
    for result in report.results:
        table.add_row(result.name, _meaning(result), Text(result.status, STYLES[result.status]))
    causes = [
        Text.assemble((f"{result.name} failed: ", "bold red"), result.detail)
        for result in report.causes
    ]
    return Group(table, *causes, *_consequences(report), Text(_summary(report)))


def _consequences(report: CheckReport) -> list[Text]:
    """Return the failures that follow from each cause, by name alone."""
    following: dict[str, list[str]] = {}
    for result in report.failures:
        if result.follows:
            following.setdefault(result.follows, []).append(result.name)
    return [
        Text(f"Probably because {cause} failed, these failed as well: {', '.join(names)}")
        for cause, names in following.items()
    ]


def _meaning(result: CheckResult) -> Text:
    text = Text(result.meaning)
    if result.detail and result.status != "failed":
        text.append(f" ({result.detail})", "dim")
    return text


def _summary(report: CheckReport) -> str:
    settings, seconds = len(report.settings), f"{report.seconds:.1f} s"
    if report.passed:
        return f"{report.name} passes, in {settings} setting{'s' * (settings != 1)} ({seconds})."
    skipped = sum(result.status == "not run" for result in report.results)
    others = f"; {skipped} were not run" if skipped else ""
    return (
        f"{report.name} fails {len(report.failures)} of {len(report.results)} checks{others} "
        f"({seconds})."
    )
