"""Parquet files, written by DuckDB: complete under their name, or not there at all.

Rows go through a file of JSON lines beside the destination, which only its owner reads and which is removed: DuckDB
then writes in bounded memory whatever the number of rows. No extension is looked for on the network.
"""

from __future__ import annotations

import json
import os
import pathlib
import secrets
from collections.abc import Iterable

import duckdb

from audit.formats.parquet import COLUMNS, row
from mesh.problems import Unavailable

_OFFLINE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "threads": "1",
}


def write_parquet(path: pathlib.Path, records: Iterable[tuple[int, bytes]]) -> int:
    """Write records to a Parquet file and return how many there were.

    1. The rows, one JSON object a line, go to a draft beside the destination.
    2. DuckDB makes a second draft of it, compressed by Zstandard.
    3. That one replaces the destination when it is on the disk; after a failure nothing is left.

    Raises Unavailable LM6051 when the destination cannot be written, Invalid LM6035 for a record that cannot be read.
    """
    token = secrets.token_hex(6)
    rows, draft = path.with_name(f".{path.name}.{token}.jsonl"), path.with_name(f".{path.name}.{token}")
    count = 0
    try:
        # (1)
        handle = os.open(rows, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for index, data in records:
                file.write(json.dumps(row(index, data), ensure_ascii=False) + "\n")
                count += 1
        # (2) as a file that is there: DuckDB would make one that others may read
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        _convert(rows, draft)
        # (3)
        with draft.open("rb") as file_of_bytes:
            os.fsync(file_of_bytes.fileno())
        draft.replace(path)
    except (OSError, duckdb.Error) as err:
        raise Unavailable("LM6051", path=path, reason=getattr(err, "strerror", None) or str(err)) from err
    finally:
        rows.unlink(missing_ok=True)
        draft.unlink(missing_ok=True)
    return count


def _convert(rows: pathlib.Path, draft: pathlib.Path) -> None:
    """Step 2: the JSON lines of one file as Parquet in another one."""
    columns = ", ".join(f"{_quoted(name)}: {_quoted(kind)}" for name, kind in COLUMNS.items())
    with duckdb.connect(config=_OFFLINE) as connection:
        source = (
            f"SELECT * FROM read_json({_quoted(str(rows))}, format='newline_delimited', columns={{{columns}}}, "  # noqa: S608  quoted
            "maximum_object_size=1048576, hive_partitioning=false)"
        )
        connection.execute(
            f"COPY ({source}) TO {_quoted(str(draft))} (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)"
        )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
