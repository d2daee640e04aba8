"""The worlds and sources of other tests, for the statements that need a server."""

from tests.limen.conftest import world, world_now
from tests.mesh.test_keysets import url

__all__ = ["url", "world", "world_now"]
