"""Where a process keeps its state and what it may be told by the environment.

State is one directory: 0711, its sub-directories 0700 (design "Processes"). This module reads no file of the state.
"""

from __future__ import annotations

import pathlib

from mesh.problems import Invalid

MAX_SOCKET_PATH_BYTES = 107
_FOLDERS = ("run", "ca", "server", "agent", "audit", "spool")


def check_socket_path(path: pathlib.Path) -> None:
    """Check that a socket can be bound at a path: the kernel's limit is 107 bytes.

    Raises Invalid LM5001 for a longer one.
    """
    size = len(str(path).encode())
    if size > MAX_SOCKET_PATH_BYTES:
        raise Invalid("LM5001", path=str(path), size=size, limit=MAX_SOCKET_PATH_BYTES)


def prepare_state(state: pathlib.Path) -> None:
    """Make the state directory and its folders with their modes.

    Raises Invalid LM5002 when the directory cannot be made or belongs to somebody else.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        # others may pass through to agent.sock, and list nothing
        state.chmod(0o711)
        for name in _FOLDERS:
            folder = state / name
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
    except OSError as err:
        raise Invalid("LM5002", path=str(state), reason=err.strerror or str(err)) from err
