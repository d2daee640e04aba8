"""Authorities in slots, with a journal of their transitions; what was revoked; the trust state that agents hold."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the tables, and say of each certificate which authority signed it."""
    op.create_table(
        "ca_slots",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("parent", sa.String(80), nullable=False),
        sa.Column("certificates", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("changed", sa.String(40), nullable=False),
        sa.Column("not_after", sa.String(40), nullable=False),
        sa.Column("published", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_table(
        "ca_journal",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("slot", sa.String(80), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("before", sa.String(20), nullable=False),
        sa.Column("after", sa.String(20), nullable=False),
        sa.Column("reason", sa.String(400), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("is_logged", sa.Boolean, nullable=False, index=True),
    )
    op.create_table(
        "ca_revoked",
        sa.Column("serial", sa.String(40), primary_key=True),
        sa.Column("authority", sa.String(80), nullable=False),
        sa.Column("spiffe_id", sa.String(2048), nullable=False),
        sa.Column("revoked", sa.String(40), nullable=False),
        sa.Column("not_after", sa.String(40), nullable=False),
        sa.Column("reason", sa.String(400), nullable=False),
    )
    op.create_table(
        "ca_trust",
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("published", sa.String(40), nullable=False),
    )
    op.add_column("ca_issued", sa.Column("authority", sa.String(80), nullable=False, server_default=""))
    op.add_column("ca_issued", sa.Column("kind", sa.String(10), nullable=False, server_default="x509"))
    op.add_column("ca_issued", sa.Column("sha256", sa.String(64), nullable=False, server_default=""))
    op.create_index("ca_issued_authority", "ca_issued", ["authority", "not_after"])
    op.create_index("ca_issued_spiffe_id", "ca_issued", ["spiffe_id"])
