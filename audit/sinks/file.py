"""A file as the destination of an export: complete under its name, or not there at all."""

from __future__ import annotations

import os
import pathlib
import secrets
from collections.abc import Iterable

from mesh.problems import Unavailable


def write_file(path: pathlib.Path, lines: Iterable[bytes]) -> int:
    """Write lines to a file that only its owner reads, and return how many there were.

    1. The lines go to a new file beside the destination; a link that somebody put there is not followed.
    2. It replaces the destination when all of it is on the disk; after a failure nothing of it is left.

    Raises Unavailable LM6051 when the destination cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    count = 0
    try:
        # (1)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                for found in lines:
                    file.write(found)
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            # (2)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as err:
        raise Unavailable("LM6051", path=path, reason=err.strerror or str(err)) from err
    return count
