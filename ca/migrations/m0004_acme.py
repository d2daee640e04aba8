"""The ACME authority: its own keys, accounts, bindings, orders, authorizations, challenges and certificates."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the tables."""
    op.create_table(
        "acme_authorities",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("certificate", sa.LargeBinary, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "acme_bindings",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("account", sa.String(40), nullable=True),
    )
    op.create_table(
        "acme_accounts",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("thumbprint", sa.String(64), nullable=False, unique=True),
        sa.Column("jwk", sa.Text, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("contact", sa.Text, nullable=False),
        sa.Column("binding", sa.String(40), nullable=True),
        sa.Column("created", sa.String(40), nullable=False),
    )
    op.create_table(
        "acme_orders",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("account", sa.String(40), nullable=False, index=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("identifiers", sa.Text, nullable=False),
        sa.Column("authorizations", sa.Text, nullable=False),
        sa.Column("certificate", sa.String(40), nullable=True),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("created", sa.String(40), nullable=False, index=True),
        sa.Column("expires", sa.String(40), nullable=False, index=True),
    )
    op.create_table(
        "acme_authorizations",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("account", sa.String(40), nullable=False, index=True),
        sa.Column("type", sa.String(10), nullable=False),
        sa.Column("value", sa.String(255), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("expires", sa.String(40), nullable=False, index=True),
    )
    op.create_table(
        "acme_challenges",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("authorization", sa.String(40), nullable=False, index=True),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("status", sa.String(20), nullable=False, index=True),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("validated", sa.String(40), nullable=True),
    )
    op.create_table(
        "acme_certificates",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("serial", sa.String(40), nullable=False, unique=True),
        sa.Column("account", sa.String(40), nullable=False, index=True),
        sa.Column("names", sa.Text, nullable=False),
        sa.Column("certificate", sa.LargeBinary, nullable=False),
        sa.Column("issued", sa.String(40), nullable=False),
        sa.Column("not_after", sa.String(40), nullable=False),
        sa.Column("is_recorded", sa.Boolean, nullable=False),
        sa.Column("revoked", sa.String(40), nullable=True),
        sa.Column("reason", sa.Integer, nullable=True),
    )
