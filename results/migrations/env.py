"""Alembic's entry point, which migrates in the transaction that its caller opened."""

from alembic import context

from results.columns import Base

context.configure(
    connection=context.config.attributes["connection"],
    # For its naming convention for constraints.
    target_metadata=Base.metadata,
)
context.run_migrations()
