"""Running checks on a component in all its settings."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, replace
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from bench.check.outcome import CheckReport, CheckResult, Failed, NotApplicable
from bench.check.own_line import crash, own_file, with_line
from routers import Entry


class Setting(Protocol):
    """A component with certain options, in surroundings in which it can be tried."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

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
        after: checks whose failure may be the reason why this one fails.
    """

    name: str
    run: Callable[[Tried], str]
    after: tuple[str, ...] = ()

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
    results = {runs.name: _result(runs, settings)}
    # A setting that crashes is told once, and the other checks have the rest to say.
    running = [setting for setting in settings if _result(runs, [setting]).status == "passed"]
    for check in checks:
        result = _result(check, running)
        if result.status == "failed":
            reasons = (name for name in check.after if results[name].status == "failed")
            result = replace(result, follows=next(reasons, ""))
        results[check.name] = result
    labels = tuple(setting.label for setting in settings)
    seconds = time.perf_counter() - begin
    return CheckReport(entry.kind, entry.name, tuple(results.values()), labels, seconds=seconds)


def _result(check: Check[Tried], settings: Sequence[Tried]) -> CheckResult:
    """The first failure over all settings; else the first thing that is worth saying."""
    said, skipped = [], []
    for setting in settings:
        try:
            said.append((setting.label, check.run(setting)))
        except NotApplicable as reason:
            skipped.append(str(reason))
        except Failed as failure:
            detail = with_line(failure, own_file(setting.entry), _again(check, setting))
            return CheckResult(check.name, check.meaning, "failed", f"{setting.label}: {detail}")
        except Exception as error:
            detail = crash(error, own_file(setting.entry), _again(check, setting))
            return CheckResult(check.name, check.meaning, "failed", f"{setting.label}: {detail}")
    if said:
        return CheckResult(check.name, check.meaning, "passed", _worth_saying(said))
    if skipped:
        return CheckResult(check.name, check.meaning, "not applicable", skipped[-1])
    return CheckResult(check.name, check.meaning, "not run")


def _again(check: Check[Tried], setting: Tried) -> Callable[[], object]:
    """The same check of a copy, which has nothing computed yet."""
    return partial(check.run, replace(setting))


def _worth_saying(said: list[tuple[str, str]]) -> str:
    """What the first setting says; else what another does, with its label."""
    if said[0][1]:
        return said[0][1]
    return next((f"{label}: {text}" for label, text in said if text), "")
