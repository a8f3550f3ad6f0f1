"""A check's report as a table for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.check.outcome import CheckReport, CheckResult

STYLES = {"passed": "green", "failed": "bold red", "not applicable": "dim"}


def render(report: CheckReport) -> RenderableType:
    """The checks, what each means, and under the table what failed and with which numbers."""
    if report.note:
        return Text(f"{report.name}: {report.note}")
    table = Table(title=f"Checks of {report.kind} {report.name}", title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("what it means", ratio=1)
    table.add_column("result", no_wrap=True)
    for result in report.results:
        table.add_row(result.name, _meaning(result), Text(result.status, STYLES[result.status]))
    failed = [
        Text.assemble((f"{result.name} failed: ", "bold red"), result.detail)
        for result in report.failures
    ]
    return Group(table, *failed, Text(_summary(report)))


def _meaning(result: CheckResult) -> Text:
    text = Text(result.meaning)
    if result.detail and result.status != "failed":
        text.append(f" ({result.detail})", "dim")
    return text


def _summary(report: CheckReport) -> str:
    settings, seconds = len(report.settings), f"{report.seconds:.1f} s"
    if report.passed:
        return f"{report.name} passes, in {settings} setting{'s' * (settings != 1)} ({seconds})."
    return (
        f"{report.name} fails {len(report.failures)} of {len(report.results)} checks ({seconds})."
    )
