"""Alembic's entry point: it migrates in the transaction that its caller opened."""

from alembic import context

from results.columns import Base

context.configure(
    connection=context.config.attributes["connection"],
    # For its naming of constraints.
    target_metadata=Base.metadata,
)
context.run_migrations()
