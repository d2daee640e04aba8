"""The last push of flows of each node: one whose answer was lost comes again, and counts once."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the table."""
    op.create_table(
        "limen_pushes",
        sa.Column("node", sa.String(200), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
    )
