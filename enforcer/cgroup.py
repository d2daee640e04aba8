"""What a process's control group says of it: its systemd unit, its container, its pod.

Only the kernel's path is read, and only its outermost words count: below a unit or a container its own user may name
groups as it likes (delegation, cgroup_namespaces(7)). Two hierarchies that say different things say nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

MAX_BYTES = 65536
_MAX_PATH = 4096
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,250}\.(service|scope)\Z")
_CONTAINER = re.compile(
    r"(?:(?:docker|libpod|crio|cri-containerd|containerd|cri-dockerd)-)?(?P<id>[0-9a-f]{64})(?:\.scope)?\Z"
)
# containerd's systemd driver without systemd, and its cgroupfs form: SLICE:PREFIX:ID
_COLONS = re.compile(r"(?P<slice>[A-Za-z0-9_.-]+):(?:cri-containerd|crio|docker):(?P<id>[0-9a-f]{64})\Z")
_POD = re.compile(
    r"(?:kubepods(?:-besteffort|-burstable)?-)?"
    r"pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?\Z"
)
_ROOTS = ("kubepods", "kubepods.slice", "docker", "machine.slice", "system.slice", "libpod_parent")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """What was found; empty where there is nothing, or where it contradicts itself."""

    path: str = ""
    unit: str = ""
    container: str = ""
    pod: str = ""

    def facts(self) -> tuple[tuple[str, str], ...]:
        """As facts. What runs in a container has no unit: two rules over them never meet (`ca.ruletie`)."""
        found = []
        if self.path:
            found.append(("cgroup:path", self.path))
        if self.unit and not self.container:
            found.append(("systemd:unit", self.unit))
        return tuple(found)


def parse_cgroup(text: str) -> Cgroup:
    """Read /proc/PID/cgroup (cgroups(7)): lines of hierarchy, controllers and path.

    1. The unified hierarchy is line 0; beside it systemd's own named one counts, and of a host without either those
       of the controllers, for containers alone.
    2. A path that is not absolute and plain, or that leads out of this process's own view (`/..`), says nothing.
    3. Hierarchies that name different units, containers or pods say nothing of them.
    """
    unified, named, controllers = "", "", []
    # (1)
    for line in text[:MAX_BYTES].split("\n"):
        number, _, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        # (2)
        if not colon or not number.isascii() or not number.isdigit() or not _is_plain(path):
            continue
        if number == "0" and names == "":
            unified = path
        elif names == "name=systemd":
            named = path
        else:
            controllers.append(path)
    # (3)
    units = {found for path in (unified, named) if (found := _unit(path))}
    containers = {found for path in (unified, named, *controllers) if (found := _container(path))}
    pods = {found for path in (unified, named, *controllers) if (found := _pod(path))}
    path = unified if unified not in {"", "/"} else named or unified
    return Cgroup(path=path, unit=_only(units), container=_only(containers), pod=_only(pods))


def _only(found: set[str]) -> str:
    return next(iter(found)) if len(found) == 1 else ""


def _is_plain(path: str) -> bool:
    return (
        path.startswith("/")
        and len(path) <= _MAX_PATH
        and path.isprintable()
        and not path.endswith(" (deleted)")
        and not {"", ".", ".."} & set(path.split("/")[1:] if path != "/" else ["x"])
    )


def _unit(path: str) -> str:
    """The system manager's unit: the first word that is no slice (systemd.slice(5)).

    A user's own manager is `user@UID.service`; what it calls its units below that is the user's word.
    """
    for word in _words(path):
        # a name that would be one of the kernel's files is escaped by a `_` in front
        name = word.removeprefix("_")
        if name.endswith(".slice"):
            continue
        return name if _UNIT.match(name) else ""
    return ""


def _container(path: str) -> str:
    """The outermost container, below a runtime's or the kubelet's own groups."""
    words = list(_words(path))
    if not words or (words[0] not in _ROOTS and not _COLONS.match(words[0])):
        return ""
    for word in words:
        if found := _CONTAINER.match(word) or _COLONS.match(word):
            return found["id"]
        # a service's or a scope's user may name what is below it
        if word.endswith((".service", ".scope")):
            return ""
    return ""


def _pod(path: str) -> str:
    words = list(_words(path))
    if not words:
        return ""
    colons = _COLONS.match(words[0])
    if colons:
        words = [colons["slice"]]
    elif words[0] not in {"kubepods", "kubepods.slice"}:
        return ""
    for word in words:
        if found := _POD.match(word):
            return found["uid"].replace("_", "-")
        if _CONTAINER.match(word):
            return ""
    return ""


def _words(path: str) -> Iterator[str]:
    return (word for word in path.split("/") if word)
