"""What is known of a study's completeness: closed by force, waiting past its age, broken off, and why it may lack instances."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; of studies that settled before nothing is known, and nothing is claimed."""
    for name in ("forced", "waits"):
        op.add_column("study", sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("study", sa.Column("interrupted_by", sa.String(length=16), nullable=True))
    op.add_column("study", sa.Column("incomplete", sa.Text(), nullable=True))


def downgrade() -> None:
    """Remove the columns."""
    for name in ("incomplete", "interrupted_by", "waits", "forced"):
        op.drop_column("study", name)
