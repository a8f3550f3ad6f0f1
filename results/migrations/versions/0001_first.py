"""The first schema.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _identity()
    _studies()
    _results()


def _identity() -> None:
    """What was run, by which code, on what machine."""
    op.create_table(
        "machines",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("first_seen", sa.DateTime, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("processor", sa.Text, nullable=False),
        sa.Column("cores", sa.Integer, nullable=False),
        sa.Column("threads", sa.Integer, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("gpu", sa.Text),
        sa.Column("gpu_count", sa.Integer, nullable=False),
        sa.Column("gpu_memory_bytes", sa.BigInteger),
        sa.Column("driver", sa.Text),
        sa.Column("settings", sa.JSON, nullable=False),
    )
    op.create_table(
        "code_versions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("first_seen", sa.DateTime, nullable=False),
        sa.Column("commit", sa.Text),
        sa.Column("dirty", sa.Boolean, nullable=False),
        sa.Column("diff", sa.Text, nullable=False),
        sa.Column("python", sa.Text, nullable=False),
        sa.Column("libraries", sa.JSON, nullable=False),
    )
    op.create_table(
        "components",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("first_seen", sa.DateTime, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False, index=True),
        sa.Column("family", sa.Text),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("bibtex", sa.Text),
        sa.Column("hyper", sa.JSON, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("main_metric", sa.Text),
        sa.Column("source_hash", sa.Text, nullable=False),
        sa.Column("source_text", sa.Text, nullable=False),
    )
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("description", sa.JSON, nullable=False),
        sa.Column("parent_id", sa.Integer, sa.ForeignKey("trials.id")),
        sa.Column("transform", sa.Text),
    )
    op.create_table(
        "layers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("description", sa.JSON, nullable=False),
    )
    for subject in ("trial", "layer"):
        op.create_table(
            f"{subject}_components",
            sa.Column(
                f"{subject}_id", sa.Integer, sa.ForeignKey(f"{subject}s.id"), primary_key=True
            ),
            sa.Column("component_id", sa.Integer, sa.ForeignKey("components.id"), primary_key=True),
        )


def _studies() -> None:
    """What is shown together."""
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("requested_at", sa.DateTime, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
    )
    for subject in ("trial", "layer"):
        key = f"{subject}_id"
        op.create_table(
            f"study_{subject}s",
            sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), primary_key=True),
            sa.Column(
                key, sa.Integer, sa.ForeignKey(f"{subject}s.id"), primary_key=True, index=True
            ),
            sa.Column("requested_at", sa.DateTime, nullable=False),
        )


def _results() -> None:
    """What was tried and what came of it."""
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("trial_id", sa.Integer, sa.ForeignKey("trials.id"), nullable=False, index=True),
        sa.Column("machine_id", sa.Integer, sa.ForeignKey("machines.id"), nullable=False),
        sa.Column("code_id", sa.Integer, sa.ForeignKey("code_versions.id"), nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime, nullable=False),
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
    op.create_table(
        "measurements",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("suite", sa.Text, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("source_hash", sa.Text, nullable=False),
        sa.Column("attempt_id", sa.Integer, sa.ForeignKey("attempts.id"), index=True),
        sa.Column("layer_id", sa.Integer, sa.ForeignKey("layers.id"), index=True),
        sa.Column("machine_id", sa.Integer, sa.ForeignKey("machines.id"), nullable=False),
        sa.Column("code_id", sa.Integer, sa.ForeignKey("code_versions.id"), nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("traceback", sa.Text),
        sa.Column("seconds", sa.Double),
        sa.Column("measured_at", sa.DateTime, nullable=False),
        sa.CheckConstraint("(attempt_id IS NULL) <> (layer_id IS NULL)", "one_subject"),
    )
    for table, value in (
        ("metrics", sa.Column("value", sa.Double)),
        ("arrays", sa.Column("values", sa.LargeBinary, nullable=False)),
    ):
        op.create_table(
            table,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column(
                "measurement_id",
                sa.Integer,
                sa.ForeignKey("measurements.id"),
                nullable=False,
                index=True,
            ),
            sa.Column("name", sa.Text, nullable=False),
            value,
            sa.Column("layer", sa.Integer),
            sa.Column("step", sa.BigInteger),
            sa.Column("split", sa.Text),
            sa.Column("where", sa.JSON, nullable=False),
        )
