"""Keys that were begun or are being deleted, so that a kill between a key and its record leaves nothing behind."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the table."""
    op.create_table(
        "ca_key_ledger",
        sa.Column("source", sa.String(40), primary_key=True),
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("since", sa.String(40), nullable=False),
    )
