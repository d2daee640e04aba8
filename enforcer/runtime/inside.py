"""Whether a process is inside a container: the kernel's word, held against what the container's runtime said.

A runtime names a container's first process. Whoever is in the container is in the very same control groups and in
the same process and mount namespaces, and did not begin before it. A process of the host that was moved into the
groups is in none of those namespaces; one that only calls a group of its own by a container's id is in another group.
"""

from __future__ import annotations

import dataclasses
import os

from enforcer.process import Process, read_cgroup, read_stat
from mesh.problems import NotFound

_NAMESPACES = ("pid", "mnt")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """Where a process is at one moment: enough to say whether two are in one container."""

    pid: int
    start: int
    container: str
    groups: tuple[tuple[str, str], ...]
    namespaces: tuple[tuple[int, int], ...]


def read_inside(pid: int) -> Inside:
    """Read where a process is, between two looks at its start time.

    Raises NotFound LM3401 when it is gone, or cannot be looked at.
    """
    before = read_stat(pid)
    cgroup = read_cgroup(pid)
    try:
        looked = [os.stat(f"/proc/{pid}/ns/{name}") for name in _NAMESPACES]
    except OSError as err:
        raise NotFound("LM3401", pid=pid) from err
    if read_stat(pid).start != before.start:
        raise NotFound("LM3401", pid=pid)
    return Inside(
        pid=pid,
        start=before.start,
        container=cgroup.container,
        groups=cgroup.groups,
        namespaces=tuple((found.st_dev, found.st_ino) for found in looked),
    )


def misfit(process: Process, container: str, init: Inside) -> str:
    """Why a process is not inside a container whose first process is known; empty when it is.

    1. The first process is in the container itself: a runtime that names another one, or whose answer is out of
       date, is not believed.
    2. The process still is the one that was read, in the same container.
    3. It did not begin before the first one.
    4. It is in the very same groups, or below them.
    5. It is in the same process namespace and the same mount namespace.

    Raises NotFound LM3401 when it is gone.
    """
    # (1)
    if init.container != container:
        return f"process {init.pid}, which the runtime names, is not in it"
    # (2)
    found = read_inside(process.pid)
    if found.start != process.start or read_stat(process.pid).layout != process.layout:
        raise NotFound("LM3401", pid=process.pid)
    if found.container != container:
        return "it is in it no longer"
    # (3)
    if found.start < init.start:
        return "it began before the container did"
    # (4)
    if found.groups != init.groups:
        return "it is in other control groups than the container"
    # (5)
    for name, mine, its in zip(_NAMESPACES, found.namespaces, init.namespaces, strict=True):
        if mine != its:
            return f"it is in another {name} namespace than the container"
    return ""
