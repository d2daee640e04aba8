"""Snapshots, reviews, approvals, activations and reviewer sets."""

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the tables."""
    op.create_table(
        "policy_snapshots",
        sa.Column("hash", sa.String(80), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
    )
    op.create_table(
        "policy_reviews",
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("snapshot", sa.String(80), nullable=False),
        sa.Column("predecessor", sa.String(80), nullable=True),
        sa.Column("proposer", sa.String(80), nullable=True),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("changed", sa.String(40), nullable=False),
    )
    op.create_table(
        "policy_approvals",
        sa.Column("review", sa.String(26), primary_key=True),
        sa.Column("key_id", sa.String(80), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("time", sa.String(40), nullable=False),
    )
    op.create_table(
        "policy_activations",
        sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("review", sa.String(26), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "policy_reviewer_sets",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.String(80), nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
    )
