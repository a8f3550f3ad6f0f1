"""What a conformance check says, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "not run", "not applicable"]


class Failed(Exception):
    """A check does not hold; the message has the numbers."""


class NotFinite(Failed):
    """A value has NaN or infinite entries."""


class WrongReturn(Failed):
    """The component returns something else than it should, or of another shape."""


class NotApplicable(Exception):
    """There is nothing to check here; the message says why."""


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
