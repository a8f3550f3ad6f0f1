"""What a reader must know beside the findings, in sentences: what chance alone does."""

from __future__ import annotations

from report.study import StudyData
from report.tables import control


def remarks(study: StudyData) -> list[str]:
    """The sentences, in the order in which they are read."""
    return control.sentences(study)
