"""The server's first tables: flows, and how far each agent's record batches came."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the tables."""
    op.create_table(
        "limen_flows",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("node", sa.String(200), nullable=False),
        sa.Column("row", sa.Text, nullable=False),
    )
    op.create_table(
        "limen_batches",
        sa.Column("node", sa.String(200), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
    )
