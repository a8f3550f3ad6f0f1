"""Tables, figures and a web page of a study, from the results database alone."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from report.write import ReportPaths, write_report

__all__ = ["ReportPaths", "write_report"]


def __getattr__(name: str) -> Any:
    """matplotlib is imported where a report is written, not where one is only asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'report' has no attribute {name!r}")
    from report import write

    return getattr(write, name)
