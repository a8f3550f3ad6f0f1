"""Running checks on a component in all its settings."""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from bench.check.outcome import CheckReport, CheckResult, Failed, NotApplicable
from routers import Entry


class Setting(Protocol):
    """A component with certain options, in surroundings in which it can be tried."""

    @property
    def entry(self) -> Entry: ...

    @property
    def label(self) -> str:
        """The options in words."""


Tried = TypeVar("Tried", bound=Setting)


@dataclass(frozen=True)
class Check(Generic[Tried]):
    """A property that every component of a kind must have.

    Attributes:
        run: raises `Failed` or `NotApplicable`, or returns what is worth saying.
    """

    name: str
    run: Callable[[Tried], str]

    @property
    def meaning(self) -> str:
        """One sentence: what holds where it passes."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


def run_checks(
    entry: Entry, runs: Check[Tried], checks: Sequence[Check[Tried]], settings: Sequence[Tried]
) -> CheckReport:
    """Every check in every setting.

    Args:
        runs: the check without which the others have nothing to say.
    """
    begin = time.perf_counter()
    first = _result(runs, settings)
    # A setting that crashes is told once, and the other checks have the rest to say.
    running = [setting for setting in settings if _result(runs, [setting]).status == "passed"]
    results = (first, *(_result(check, running) for check in checks))
    labels = tuple(setting.label for setting in settings)
    seconds = time.perf_counter() - begin
    return CheckReport(entry.kind, entry.name, results, labels, seconds=seconds)


def _result(check: Check[Tried], settings: Sequence[Tried]) -> CheckResult:
    """The first failure over all settings; else what the default setting has to say."""
    said, skipped = [], ["it does not run"]
    for setting in settings:
        try:
            said.append(check.run(setting))
        except NotApplicable as reason:
            skipped.append(str(reason))
        except Failed as failure:
            detail = f"{setting.label}: {failure}"
            return CheckResult(check.name, check.meaning, "failed", detail)
        except Exception as error:
            detail = f"{setting.label}: {_crash(error, setting)}"
            return CheckResult(check.name, check.meaning, "failed", detail)
    if said:
        return CheckResult(check.name, check.meaning, "passed", said[0])
    return CheckResult(check.name, check.meaning, "not applicable", skipped[-1])


def _crash(error: Exception, setting: Setting) -> str:
    """What was raised, and at which line of the component's own file."""
    file = inspect.getsourcefile(setting.entry.target)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    where = f", at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""
    notes = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    return f"{notes}{type(error).__name__}: {error}{where}"
