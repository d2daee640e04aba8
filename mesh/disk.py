"""What has to be on the disk before somebody relies on it."""

from __future__ import annotations

import os
import pathlib


def sync(path: pathlib.Path) -> None:
    """Have the disk keep a file's content, or the names in a folder. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
