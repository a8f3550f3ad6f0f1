"""Results of conformance checks as plain data, and the lines of code that failures point to."""

import inspect
import linecache
import sys
import traceback
from collections import defaultdict
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

from results.text import counted
from routers import BenchError, Entry, Routing


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
        meaning: the property that holds if the check passes.
        status: "not applicable" if there is nothing to check, "not run" if the failure of
            another check leaves nothing to check with.
        detail: on failure, the setting and the numbers; otherwise anything worth noting.
        follows: on failure, another failed check that may be the reason; otherwise empty.
    """

    name: str
    meaning: str
    status: Literal["passed", "failed", "not run", "not applicable"]
    detail: str = ""
    follows: str = ""


@dataclass(frozen=True)
class CheckReport:
    """All checks of one component.

    Attributes:
        kind: "router", "experts", "loss", "dataset" or "suite".
        settings: the hyper-parameters of each configuration that was checked.
        note: why there is nothing to check, as for a baseline.
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


def describe_failure(error: Exception, entry: Entry, again: Callable[[], object]) -> str:
    """Return why a check failed or what it raised, and which line of the component is to blame.

    Args:
        again: repeats the check, to find the line.
    """
    file = inspect.getsourcefile(entry.target) or ""
    crashed = not isinstance(error, Failed)
    frames = traceback.extract_tb(error.__traceback__) if crashed else ()
    lines = [frame.lineno or 0 for frame in frames if frame.filename == file][-1:]
    if not lines and (crashed or isinstance(error, NotFinite)):
        lines = _first_not_finite(again, file)
    if not lines and (crashed or isinstance(error, NotFinite | WrongReturn)):
        lines = _return(again, file)
    where = ""
    if lines:
        linecache.checkcache(file)
        where = f", at {file}:{lines[0]}: {linecache.getline(file, lines[0]).strip()}"
    notes = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    kind = f"{type(error).__name__}: " if crashed and not isinstance(error, BenchError) else ""
    return f"{notes}{kind}{error}{where}"


def _return(call: Callable[[], object], file: str) -> list[int]:
    """Find the file's line that first returns a routing in a call, else last returns a value."""
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
    return routings[:1] or values[-1:]


def _first_not_finite(call: Callable[[], object], file: str) -> list[int]:
    """Find the file's line that first makes NaN or +infinity in a call; masks have -infinity."""
    lines: list[int] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, tuple) else (result,):
                if isinstance(value, Tensor) and (value.isnan() | value.isposinf()).any():
                    lines.extend(_line_of(sys._getframe(1), file))
            return result

    with suppress(Exception), Watch():
        call()
    return lines[:1]


def _line_of(frame: FrameType | None, file: str) -> list[int]:
    """Return the innermost line of the file among a frame's callers."""
    # Not beyond the call that is watched: the component's file may have started it.
    while frame is not None and frame.f_code.co_filename not in (file, __file__):
        frame = frame.f_back
    return [frame.f_lineno] if frame is not None and frame.f_code.co_filename == file else []


STYLES = {"passed": "green", "failed": "bold red", "not run": "yellow", "not applicable": "dim"}


def render(report: CheckReport) -> RenderableType:
    """Return a table of the checks and what each means, and below it what failed, with numbers."""
    if report.note:
        return Text(f"{report.name}: {report.note}")
    table = Table(title=f"Checks of {report.kind} {report.name}", title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("what it means", ratio=1)
    table.add_column("result", no_wrap=True)
    for result in report.results:
        meaning = Text(result.meaning)
        if result.detail and result.status != "failed":
            meaning.append(f" ({result.detail})", "dim")
        table.add_row(result.name, meaning, Text(result.status, STYLES[result.status]))
    causes = [
        Text.assemble((f"{result.name} failed: ", "bold red"), result.detail)
        for result in report.causes
    ]
    following: dict[str, list[str]] = defaultdict(list)
    for result in report.failures:
        if result.follows:
            following[result.follows].append(result.name)
    consequences = [
        Text(f"Probably because {cause} failed, these failed as well: {', '.join(names)}")
        for cause, names in following.items()
    ]
    return Group(table, *causes, *consequences, Text(_summary(report)))


def _summary(report: CheckReport) -> str:
    seconds = f"{report.seconds:.1f} s"
    if report.passed:
        settings = counted(len(report.settings), "setting")
        return f"{report.name} passes, in {settings} ({seconds})."
    skipped = sum(result.status == "not run" for result in report.results)
    others = f"; {skipped} were not run" if skipped else ""
    return (
        f"{report.name} fails {len(report.failures)} of {len(report.results)} checks{others} "
        f"({seconds})."
    )
