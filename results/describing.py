"""Writing down what is to be done, and by whom: machines, code, studies and their trials.

Each method is one transaction, so that a row is kept from the moment it is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from results.database import Database
from results.models import (
    CodeVersionRow,
    ComponentRow,
    LayerRow,
    MachineRow,
    Row,
    StudyLayerRow,
    StudyRow,
    StudyTrialRow,
    TrialRow,
)
from results.plain import content_hash
from results.records import CodeVersion, Component, Machine
from results.rows import get_or_create, now


class Identities(Database):
    """Rows that say what something is. Every method that makes a row returns its id."""

    def machine(self, machine: Machine) -> int:
        """The machine's row, made if it is new."""
        return self._by_content(MachineRow, machine)

    def code_version(self, code: CodeVersion) -> int:
        """The code version's row, made if it is new."""
        return self._by_content(CodeVersionRow, code)

    def component(self, component: Component) -> int:
        """The component's row, made if this version of it is new."""
        return self._by_content(ComponentRow, component)

    def study(self, name: str, request: Mapping[str, Any]) -> int:
        """The study of this name, made if it is new; it keeps the request that was made last."""
        with self.writing() as session:
            asked = now()
            made = {"created_at": asked, "requested_at": asked, "request": request}
            study = get_or_create(session, StudyRow, {"name": name}, made)
            study.requested_at, study.request = asked, dict(request)
            return study.id

    def trial(
        self,
        fingerprint: str,
        description: Mapping[str, Any],
        parent: int | None = None,
        transform: str | None = None,
        components: Iterable[int] = (),
    ) -> int:
        """The trial of this fingerprint, made if it is new.

        Args:
            description: the whole trial as plain data.
            parent: the trial that it is derived from.
            transform: how (`distilled`, `pruned`, …).
            components: the rows of the router, experts and losses that it is made of.
        """
        with self.writing() as session:
            made = {
                "created_at": now(),
                "description": description,
                "parent_id": parent,
                "transform": transform,
                "components": _components(session, components),
            }
            return get_or_create(session, TrialRow, {"fingerprint": fingerprint}, made).id

    def layer(
        self, fingerprint: str, description: Mapping[str, Any], components: Iterable[int] = ()
    ) -> int:
        """The bare layer of this fingerprint, made if it is new."""
        with self.writing() as session:
            made = {
                "created_at": now(),
                "description": description,
                "components": _components(session, components),
            }
            return get_or_create(session, LayerRow, {"fingerprint": fingerprint}, made).id

    def add_trial_to_study(self, study_id: int, *trial_ids: int) -> None:
        """The study shows these trials; of trials alike but for the code, the last added counts."""
        self._add_to_study(StudyTrialRow, study_id, "trial_id", trial_ids)

    def add_layer_to_study(self, study_id: int, *layer_ids: int) -> None:
        """The study shows these layers; of layers alike but for the code, the last added counts."""
        self._add_to_study(StudyLayerRow, study_id, "layer_id", layer_ids)

    def _by_content(self, row_type: type[Row], record: Machine | CodeVersion | Component) -> int:
        with self.writing() as session:
            made = asdict(record) | {"first_seen": now()}
            key = {"hash": content_hash(record)}
            return get_or_create(session, row_type, key, made).id

    def _add_to_study(
        self,
        row_type: type[StudyTrialRow] | type[StudyLayerRow],
        study_id: int,
        key: str,
        ids: Iterable[int],
    ) -> None:
        asked = now()
        with self.writing() as session:
            # In one order for all writers: PostgreSQL would break a deadlock by refusing one.
            for subject_id in sorted(ids):
                link_key = {"study_id": study_id, key: subject_id}
                link = get_or_create(session, row_type, link_key, {"requested_at": asked})
                link.requested_at = asked


def _components(session: Session, ids: Iterable[int]) -> list[ComponentRow]:
    return list(session.scalars(select(ComponentRow).where(ComponentRow.id.in_(list(ids)))))
