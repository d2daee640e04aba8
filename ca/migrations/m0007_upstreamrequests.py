"""Requests to an upstream authority that were begun and are not yet an authority of ours."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the table."""
    op.create_table(
        "ca_upstream_requests",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("csr", sa.LargeBinary, nullable=False),
        sa.Column("since", sa.String(40), nullable=False),
    )
