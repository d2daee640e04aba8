"""Relationships with other trust domains, their last good bundles, and where their services are reached."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the tables."""
    op.create_table(
        "ca_federation",
        sa.Column("trust_domain", sa.String(255), primary_key=True),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("profile", sa.String(20), nullable=False),
        sa.Column("endpoint_id", sa.String(2048), nullable=True),
        sa.Column("web_roots", sa.Text, nullable=False),
        sa.Column("bundle", sa.LargeBinary, nullable=True),
        sa.Column("fetched", sa.String(40), nullable=True),
        sa.Column("tried", sa.String(40), nullable=True),
        sa.Column("next_poll", sa.String(40), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("code", sa.String(10), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "ca_federation_endpoints",
        sa.Column("spiffe_id", sa.String(2048), primary_key=True),
        sa.Column("address", sa.String(64), primary_key=True),
        sa.Column("port", sa.Integer, primary_key=True),
        sa.Column("trust_domain", sa.String(255), nullable=False, index=True),
    )
