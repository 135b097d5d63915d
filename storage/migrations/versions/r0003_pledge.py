"""Storage commitment asked of this node (feature R8)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table, empty."""
    op.create_table(
        "pledge",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("peer", sa.String(length=16), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("is_duplicate", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("requested_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_pledge_transaction_uid", "pledge", ["transaction_uid"])
    op.create_index("pledge_due", "pledge", ["state", "not_before"])


def downgrade() -> None:
    """Remove the table; reports not yet taken are forgotten."""
    op.drop_index("pledge_due", "pledge")
    op.drop_index("ix_pledge_transaction_uid", "pledge")
    op.drop_table("pledge")
