"""What trust states were published: a server that was restored from a backup tells by it what it has lost."""

import hashlib

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the table, with the newest state in it."""
    op.create_table(
        "ca_trust_seen",
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
    )
    connection = op.get_bind()
    for row in connection.execute(sa.text("SELECT sequence, content FROM ca_trust")).all():
        connection.execute(
            sa.text("INSERT INTO ca_trust_seen (sequence, sha256) VALUES (:sequence, :sha256)"),
            {"sequence": row.sequence, "sha256": hashlib.sha256(bytes(row.content)).hexdigest()},
        )
