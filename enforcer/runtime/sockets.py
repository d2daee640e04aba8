"""Whether a runtime's socket is to be believed: only root, or the agent's own user, may have put it there.

Who answers at a socket can make any process any container. So nobody else may own the socket, listen at it, or
replace a folder on the way to it. Who may *connect* is the runtime's business: a group may.
"""

from __future__ import annotations

import os
import pathlib
import socket
import stat

from mesh.peercred import peer_credentials
from mesh.problems import Unavailable

_CONNECT_WITHIN_S = 1.0


def is_there(path: str) -> bool:
    """Whether anything stands at a path."""
    return os.path.lexists(path)


def check_socket(path: str) -> str:
    """Check a runtime's socket; return its path without symbolic links, which is the one to connect to.

    1. Every folder above it belongs to a trusted user; another's right to write is harmless only where the sticky
       bit keeps everybody's hands off what is not theirs.
    2. It is a socket of a trusted user, and not writable by all.
    3. A trusted user listens at it (the kernel's word, SO_PEERCRED).

    Raises Unavailable LM3474 when it is not to be believed, LM3472 when nobody answers.
    """
    trusted = {0, os.geteuid()}
    try:
        real = pathlib.Path(path).resolve(strict=True)
        # (1)
        for folder in real.parents:
            found = folder.lstat()
            if found.st_uid not in trusted:
                raise Unavailable("LM3474", path=path, reason=f"`{folder}` belongs to user {found.st_uid}")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
                raise Unavailable("LM3474", path=path, reason=f"others may write to `{folder}`")
        # (2)
        found = real.lstat()
        if not stat.S_ISSOCK(found.st_mode):
            raise Unavailable("LM3474", path=path, reason="it is no socket")
        if found.st_uid not in trusted:
            raise Unavailable("LM3474", path=path, reason=f"it belongs to user {found.st_uid}")
        if found.st_mode & stat.S_IWOTH:
            raise Unavailable("LM3474", path=path, reason="everybody may write to it")
        # (3)
        listener = _listener(str(real))
    except (OSError, RuntimeError) as err:
        raise Unavailable("LM3472", runtime=path, reason=getattr(err, "strerror", None) or str(err)) from err
    if listener not in trusted:
        raise Unavailable("LM3474", path=path, reason=f"user {listener} listens at it")
    return str(real)


def _listener(path: str) -> int:
    """The user who listens at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_CONNECT_WITHIN_S)
        sock.connect(path)
        return peer_credentials(sock).uid
