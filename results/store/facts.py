"""What frames tell of a trial or layer, an attempt, a measurement and their surroundings."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from results.models import AttemptRow, CodeVersionRow, LayerRow, MachineRow, TrialRow
from results.settings import REPLICATE
from results.text import to_json

Fields = dict[str, Any]


def of_subject(row: TrialRow | LayerRow) -> Fields:
    """Return what the description of a trial or layer says."""
    description = row.description
    return {
        "router": description["router"]["name"],
        "aa_replicate": description.get(REPLICATE, 0),
        "options": to_json(description["router"]["options"]),
        "experts": description["experts"]["name"],
        "num_experts": description["experts"]["num_experts"],
        "model": description["model"]["name"],
        "data": description["data"]["name"],
        "seed": description.get("seed"),
        "trial": row.fingerprint,
    }


def of_attempt(row: AttemptRow) -> Fields:
    """Find how it went, but for its surroundings."""
    return {
        "attempt": row.id,
        "status": row.status,
        "error": row.error,
        "flops": row.flops,
        "steps": row.steps,
        "seconds": row.seconds,
        "checkpoint": row.checkpoint,
        "checkpoint_sha256": row.checkpoint_sha256,
        "note": row.note,
        "log": row.log,
        "log_tail": row.log_tail,
        "traceback": row.traceback,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
    }


class Environments:
    """Machines and code versions, each read once however many rows name it."""

    def __init__(self, session: Session) -> None:
        self._machines = {row.id: _machine(row) for row in session.scalars(select(MachineRow))}
        wanted = ("id", "hash", "commit", "dirty", "python", "libraries")
        columns = [getattr(CodeVersionRow, name) for name in wanted]
        self._codes = {row.id: _code(row) for row in session.execute(select(*columns))}

    def of(self, machine_id: int, code_id: int) -> Fields:
        """Find what an attempt or a measurement ran on, and by which code."""
        return self._machines[machine_id] | self._codes[code_id]


def _machine(row: MachineRow) -> Fields:
    return {
        "machine": row.hash[:12],
        "machine_name": row.name,
        "processor": row.processor,
        "gpu": row.gpu,
        "driver": row.driver,
        "threads": row.threads,
    }


def _code(row: Any) -> Fields:
    changed = f"+{row.hash[:6]}" if row.dirty else ""
    return {
        "code": f"{(row.commit or 'unknown')[:12]}{changed}",
        "python": row.python,
        "libraries": to_json(row.libraries),
    }
