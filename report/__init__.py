"""Tables, figures and a web page of a study, from the results database alone."""

from report.study import choose_study
from report.write import ReportPaths, write_report

__all__ = ["ReportPaths", "choose_study", "write_report"]
