"""DuckDB for one reading of large files: in memory and beyond it on the disk, and never on the network.

The library is large and not every program that reads this package needs it, so it is loaded when it is asked for.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

MEMORY = "2GB"


@contextlib.contextmanager
def rows_database(refused: Callable[[str], Exception]) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database for as long as the context lasts; ``refused`` makes the error of what it cannot take."""
    import duckdb  # noqa: PLC0415  see above

    with tempfile.TemporaryDirectory(prefix="limen-rows-") as spill:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY,
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        try:
            with duckdb.connect(":memory:", config=settings) as database:
                yield database
        except (duckdb.Error, UnicodeDecodeError) as err:
            # text that is none is found when rows are taken
            raise refused(str(err).partition("\n")[0][:300]) from err
