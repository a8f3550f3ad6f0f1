"""Reports on routers that tests register temporarily."""

from __future__ import annotations

import io

from rich.console import Console

from bench.check import check_router, render
from bench.check.outcome import CheckReport
from routers import (
    ROUTERS,
    Router,
    register_router,
)


def checked(target: type[Router], *explored: str, **hyper: object) -> CheckReport:
    """Report on a router whose hyper-parameters, except explored ones, stay at their defaults."""
    register_router("broken", family="token_choice")(target)
    try:
        defaults = {info.name: info.default for info in ROUTERS.get("broken").hyper}
        fixed = {key: value for key, value in defaults.items() if key not in explored}
        return check_router("broken", **fixed | hyper)
    finally:
        ROUTERS.discard("broken")


def failed(target: type[Router], *explored: str) -> tuple[dict[str, str], set[str]]:
    """Return details of a router's failed checks by name, and the names of mere consequences."""
    report = checked(target, *explored)
    causes = {result.name: result.detail for result in report.causes}
    return causes, {result.name for result in report.failures} - causes.keys()


def text(report: CheckReport) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(render(report))
    return console.file.getvalue()
