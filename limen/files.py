"""Files that people asked for, written at once: whoever reads meanwhile sees the old one or the new one, whole."""

from __future__ import annotations

import os
import pathlib
import tempfile


def replace_file(path: pathlib.Path, content: bytes, *, mode: int | None = None) -> None:
    """Put content in place of a file, or begin one; a link's target is replaced, not the link.

    ``mode`` are the rights of a new file; one that is there keeps its own. Raises OSError, and then nothing changed.
    """
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=".limen-", dir=target.parent)
    temporary = pathlib.Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        elif mode is not None:
            temporary.chmod(mode)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
