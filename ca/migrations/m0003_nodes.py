"""Nodes know how they were attested, with which keys, and whether they are banned; tokens remember their key."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Add the columns and the table of used proofs."""
    op.add_column("ca_nodes", sa.Column("attestor", sa.String(40), nullable=False, server_default="join_token"))
    op.add_column("ca_nodes", sa.Column("facts", sa.Text, nullable=False, server_default="[]"))
    op.add_column("ca_nodes", sa.Column("previous_sha256", sa.String(64), nullable=True))
    op.add_column("ca_nodes", sa.Column("renewed", sa.String(40), nullable=True))
    op.add_column("ca_nodes", sa.Column("banned", sa.String(40), nullable=True))
    op.add_column("ca_nodes", sa.Column("ban_reason", sa.String(400), nullable=False, server_default=""))
    op.add_column("ca_tokens", sa.Column("spki_sha256", sa.String(64), nullable=True))
    op.create_table(
        "ca_node_proofs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("spki_sha256", sa.String(64), nullable=False),
        sa.Column("expires", sa.String(40), nullable=False, index=True),
    )
