"""Servers of the same trust domain below this one, and what the one above says."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the tables."""
    op.create_table(
        "ca_downstreams",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("life_s", sa.Integer, nullable=False),
        sa.Column("allowed", sa.String(40), nullable=False),
        sa.Column("removed", sa.String(40)),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("heard", sa.String(40)),
    )
    op.create_table(
        "ca_downstream_certificates",
        sa.Column("slot", sa.String(80), primary_key=True),
        sa.Column("name", sa.String(63), nullable=False),
    )
    op.create_table(
        "ca_above",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("token", sa.LargeBinary, nullable=False),
    )
