"""The authority's first tables."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the tables."""
    op.create_table(
        "ca_keys",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "ca_authorities",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "ca_issued",
        sa.Column("serial", sa.String(40), primary_key=True),
        sa.Column("spiffe_id", sa.String(2048), nullable=False),
        sa.Column("node", sa.String(200), nullable=False),
        sa.Column("rule", sa.String(200), nullable=False),
        sa.Column("issued", sa.String(40), nullable=False),
        sa.Column("not_after", sa.String(40), nullable=False, index=True),
    )
    op.create_table(
        "ca_tokens",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("expires", sa.String(40), nullable=False),
        sa.Column("used", sa.String(40), nullable=True),
    )
    op.create_table(
        "ca_nodes",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("joined", sa.String(40), nullable=False),
        sa.Column("spki_sha256", sa.String(64), nullable=False),
    )
