"""Tables, figures and a web page of a study, from the results database alone."""

from report.write import ReportPaths, write_report

__all__ = ["ReportPaths", "write_report"]
