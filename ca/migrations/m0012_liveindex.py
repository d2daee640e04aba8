"""The index of what is valid goes by end, then by the moment of issuing, then by name.

Tokens end at whole seconds: without that moment, every batch of one second went between the names of all the batches
before it, and changed twice as many pages.
"""

from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Change the index."""
    op.drop_index("ca_issued_live", "ca_issued")
    op.create_index("ca_issued_live", "ca_issued", ["not_after", "issued", "spiffe_id"])
