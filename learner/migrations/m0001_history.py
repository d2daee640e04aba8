"""What was learned: how far, each kind of contact, and its sessions by day."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the tables."""
    op.create_table(
        "learner_standing",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("head", sa.Text, nullable=False),
    )
    op.create_table(
        "learner_kinds",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("last", sa.Float(53), nullable=False),
        sa.Column("row", sa.Text, nullable=False),
    )
    op.create_table(
        "learner_days",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("row", sa.Text, nullable=False),
    )
    op.create_index("learner_days_day", "learner_days", ["day"])
