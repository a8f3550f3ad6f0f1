"""Add the definitions that a component is made of, with the digest of each.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("components", sa.Column("definitions", sa.JSON))
