"""Whether a process executes code from files that somebody else could have put there (/proc/PID/maps, proc(5)).

A program's digest says nothing of a library that was slipped under it: by `LD_PRELOAD`, by a path in its environment,
or by what it loads from where it finds it. What is mapped for execution shows it, while it is mapped: code that copied
itself to memory without a name and let go of its file is not seen, nor is what a compiler makes at run time.
"""

from __future__ import annotations

import os
import re

from mesh.problems import NotFound

_ROOT = 0
# an upper limit of what is read; a program with more mappings than fit is looked at as far as that
_MAX_BYTES = 4 << 20
_LINE = re.compile(rb"^([0-9a-f]+-[0-9a-f]+) ..x. [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ ([0-9]+) +(/.*)$", re.MULTILINE)


def foreign_code(pid: int, owner: int) -> str:
    """A file that a process executes and that belongs to neither root nor ``owner``, empty when there is none.

    1. The file is asked for by the mapping itself, which leads to it whatever stands at its path by now; without the
       right to, by its path as the process sees it.
    2. Memory files have no owner of their own: they are as nameless memory is.

    Raises NotFound LM3401 when the process is gone or cannot be looked into.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:  # noqa: PTH123  as quick as can be
            found = {(match[2], match[3]): match[1] for match in _LINE.finditer(file.read(_MAX_BYTES))}
    except OSError as err:
        raise NotFound("LM3401", pid=pid) from err
    for (_, path), place in found.items():
        # (2)
        if path.startswith(b"/memfd:"):
            continue
        if _owner(pid, place, path) not in {_ROOT, owner, None}:
            return os.fsdecode(path)
    return ""


def _owner(pid: int, place: bytes, path: bytes) -> int | None:
    # (1)
    for way in (b"/proc/%d/map_files/%b" % (pid, place), b"/proc/%d/root%b" % (pid, path)):
        try:
            return os.stat(way).st_uid  # noqa: PTH116  one system call
        except OSError:
            continue
    return None
