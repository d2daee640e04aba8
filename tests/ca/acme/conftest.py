from tests.limen.conftest import world

__all__ = ["world"]
