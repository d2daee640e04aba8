"""Where the active release and the traffic have parted, as the learner beside the server last found it."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the table."""
    op.create_table(
        "learner_drift",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("snapshot", sa.String(71), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
    )
