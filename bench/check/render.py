"""A check's report as a table for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.check.outcome import CheckReport, CheckResult

STYLES = {"passed": "green", "failed": "bold red", "not run": "yellow", "not applicable": "dim"}


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
    causes = [
        Text.assemble((f"{result.name} failed: ", "bold red"), result.detail)
        for result in report.causes
    ]
    return Group(table, *causes, *_consequences(report), Text(_summary(report)))


def _consequences(report: CheckReport) -> list[Text]:
    """The failures that follow from each cause, by name alone."""
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
