"""What a reader must know beside the findings, in sentences: when it stopped, what chance does."""

from __future__ import annotations

from report.study import StudyData
from report.tables import claims, control, throughput
from report.tuning import unequal
from results.text import counted


def remarks(study: StudyData) -> list[str]:
    """The sentences, in the order in which they are read."""
    warned = filter(None, [unequal(study), throughput.sentence(study)])
    return [*warned, *_stopped(study), *control.sentences(study), *claims.sentences(study)]


def _stopped(study: StudyData) -> list[str]:
    """How far a study came whose seeds were added until its differences were decided."""
    asked = study.record.request.get("sequential")
    if not asked:
        return []
    looks = ", ".join(map(str, asked["seeds"]))
    if not asked["taken"]:
        return [f"Seeds are being added, with looks planned at {looks}; the first is not over."]
    every = asked["decided"] == asked["compared"]
    number = "all" if every else f"{asked['decided']} of the"
    differences = counted(asked["compared"], "difference")
    return [
        f"Seeds were added, the same to every router, with looks planned at {looks}: it stopped at "
        f"{counted(asked['taken'], 'seed')} with {number} {differences} decided, that is "
        f"resolved, or smaller than {counted(asked['resolve'], 'point')}."
    ]
