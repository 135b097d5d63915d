"""Alembic's entry: runs the revisions on the connection, and in the transaction, that `Database.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from storage.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a column by rebuilding its table
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
