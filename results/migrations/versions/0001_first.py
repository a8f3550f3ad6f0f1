"""The first schema.

Revision ID: 0001
Revises:
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables: machines, code, components, studies, trials, attempts and results."""
    _make(
        "machines",
        *_content(),
        *_needed(sa.Text, "name", "system", "processor"),
        *_needed(sa.Integer, "cores", "threads"),
        *_needed(sa.BigInteger, "memory_bytes"),
        sa.Column("gpu", sa.Text),
        *_needed(sa.Integer, "gpu_count"),
        sa.Column("gpu_memory_bytes", sa.BigInteger),
        sa.Column("driver", sa.Text),
        *_needed(sa.JSON, "settings"),
    )
    _make(
        "code_versions",
        *_content(),
        sa.Column("commit", sa.Text),
        *_needed(sa.Boolean, "dirty"),
        *_needed(sa.Text, "diff", "python"),
        *_needed(sa.JSON, "libraries"),
    )
    _make(
        "components",
        *_content(),
        *_needed(sa.Text, "kind"),
        *_needed(sa.Text, "name", index=True),
        sa.Column("family", sa.Text),
        *_needed(sa.Text, "summary", "text"),
        sa.Column("source", sa.Text),
        sa.Column("bibtex", sa.Text),
        *_needed(sa.JSON, "hyper", "metrics"),
        sa.Column("main_metric", sa.Text),
        *_needed(sa.Text, "source_hash", "source_text"),
    )
    for table, derived in (
        ("trials", [_link("parent_id", "trials"), sa.Column("transform", sa.Text)]),
        ("layers", []),
    ):
        _make(
            table,
            *_needed(sa.Text, "fingerprint", unique=True),
            *_needed(sa.DateTime, "created_at"),
            *_needed(sa.JSON, "description"),
            *derived,
        )
    for kind in ("trial", "layer"):
        op.create_table(
            f"{kind}_components",
            _link(f"{kind}_id", f"{kind}s", primary_key=True),
            _link("component_id", "components", primary_key=True),
        )
    _make(
        "studies",
        *_needed(sa.Text, "name", unique=True),
        *_needed(sa.DateTime, "created_at", "requested_at"),
        *_needed(sa.JSON, "request"),
    )
    for kind in ("trial", "layer"):
        op.create_table(
            f"study_{kind}s",
            _link("study_id", "studies", primary_key=True),
            _link(f"{kind}_id", f"{kind}s", primary_key=True, index=True),
            *_needed(sa.DateTime, "requested_at"),
        )
    _make(
        "attempts",
        _link("trial_id", "trials", nullable=False, index=True),
        *_made_by(),
        *_needed(sa.Text, "status"),
        *_needed(sa.DateTime, "started_at"),
        sa.Column("finished_at", sa.DateTime),
        sa.Column("error", sa.Text),
        sa.Column("traceback", sa.Text),
        sa.Column("flops", sa.Double),
        sa.Column("steps", sa.BigInteger),
        sa.Column("seconds", sa.Double),
        sa.Column("checkpoint", sa.Text),
        sa.Column("checkpoint_sha256", sa.String(64)),
        sa.Column("log", sa.Text),
    )
    _make(
        "measurements",
        *_needed(sa.Text, "suite"),
        *_needed(sa.JSON, "options"),
        *_needed(sa.Text, "source_hash"),
        _link("attempt_id", "attempts", index=True),
        _link("layer_id", "layers", index=True),
        *_made_by(),
        *_needed(sa.Text, "status"),
        sa.Column("error", sa.Text),
        sa.Column("traceback", sa.Text),
        sa.Column("seconds", sa.Double),
        *_needed(sa.DateTime, "measured_at"),
        sa.CheckConstraint("(attempt_id IS NULL) <> (layer_id IS NULL)", "one_subject"),
    )
    for table, value in (
        ("metrics", sa.Column("value", sa.Double)),
        ("arrays", sa.Column("values", sa.LargeBinary, nullable=False)),
    ):
        _make(
            table,
            _link("measurement_id", "measurements", nullable=False, index=True),
            *_needed(sa.Text, "name"),
            value,
            sa.Column("layer", sa.Integer),
            sa.Column("step", sa.BigInteger),
            sa.Column("split", sa.Text),
            *_needed(sa.JSON, "where"),
        )


def _make(table: str, *parts: Any) -> None:
    op.create_table(table, sa.Column("id", sa.Integer, primary_key=True), *parts)


def _needed(kind: Any, *names: str, **options: Any) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False, **options) for name in names]


def _link(name: str, table: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, sa.ForeignKey(f"{table}.id"), **options)


def _content() -> list[sa.Column[Any]]:
    return [*_needed(sa.String(64), "hash", unique=True), *_needed(sa.DateTime, "first_seen")]


def _made_by() -> list[sa.Column[Any]]:
    links = {"machine_id": "machines", "code_id": "code_versions"}
    return [_link(name, table, nullable=False) for name, table in links.items()]
