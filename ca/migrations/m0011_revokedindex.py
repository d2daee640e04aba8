"""Revocations by their end: what is revoked and would be valid otherwise is found without looking at all there were."""

from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Make the index."""
    op.create_index("ca_revoked_live", "ca_revoked", ["not_after"])
