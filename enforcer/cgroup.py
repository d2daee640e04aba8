"""What a process's control group says of it: its systemd unit, its container, its pod.

Only the kernel's path is read, and only its outermost words count: below a unit or a container its own user may name
groups as it likes (delegation). Where the outermost words are depends on who reads: an agent in a cgroup namespace of
its own sees paths from its own group on, with `/..` for each level above it (cgroup_namespaces(7)), so it has to know
how deep it stands. Two hierarchies that say different things say nothing. That a container's runtime knows the process
is found out elsewhere (`enforcer.runtime`).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

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
# below this one Podman calls a pod by a bare id, and a container by one with a prefix
_PODS_BARE = "libpod_parent"
# the namespace that the kernel began with (PROC_CGROUP_INIT_INO of linux/proc_ns.h)
_FIRST_NAMESPACE = 0xEFFFFFFB
_KTHREADD, _FLAGS, _PF_KTHREAD = 2, 9, 0x00200000

# by hierarchy (as /proc/PID/cgroup names it), how many groups deep the reader's own view begins
Depths = Mapping[str, int]
HOST: Depths = {}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """What was found; empty where there is nothing, or where it contradicts itself.

    ``groups`` are the container's own groups, by hierarchy: whoever is in the container is in exactly those, or below.
    ``is_torn`` says that they name two containers.
    """

    path: str = ""
    unit: str = ""
    container: str = ""
    pod: str = ""
    groups: tuple[tuple[str, str], ...] = ()
    is_torn: bool = False

    def facts(self) -> tuple[tuple[str, str], ...]:
        """As facts. What runs in a container has no unit: two rules over them never meet (`ca.ruletie`)."""
        found = []
        if self.path:
            found.append(("cgroup:path", self.path))
        if self.unit and not self.container and not self.is_torn:
            found.append(("systemd:unit", self.unit))
        return tuple(found)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A group's path in words; ``hidden`` counts the levels above them that are not seen."""

    words: tuple[str, ...]
    hidden: int

    @property
    def path(self) -> str:
        """The path from the root on; empty when its beginning is not seen."""
        return "" if self.hidden else "/" + "/".join(self.words)


def parse_cgroup(text: str, depths: Depths | None = HOST) -> Cgroup:
    """Read /proc/PID/cgroup (cgroups(7)): lines of hierarchy, controllers and path.

    1. The unified hierarchy is line 0; beside it systemd's own named one counts, and of a host without either those
       of the controllers, for containers alone.
    2. A path that is not absolute and plain says nothing, nor does one whose beginning is not known; see `_place`.
    3. Hierarchies that name different units, containers or pods say nothing of them.
    """
    # (1)
    places: dict[str, _Place] = {}
    for line in text[:MAX_BYTES].split("\n"):
        number, _, rest = line.partition(":")
        name, colon, path = rest.partition(":")
        if not colon or not number.isascii() or not number.isdigit() or (not name and number != "0"):
            continue
        # (2)
        place = _place(path, depths.get(name, 0)) if depths is not None else None
        if place is not None:
            places[name] = place
    systemd = [places[name] for name in ("", "name=systemd") if name in places]
    # (3)
    containers = {name: found for name, place in places.items() if (found := _container(place))}
    named = {found for found, _ in containers.values()}
    container = _only(named)
    paths = [place.path for place in systemd]
    return Cgroup(
        path=next((path for path in paths if path not in {"", "/"}), paths[-1] if paths else ""),
        unit=_only({unit for place in systemd if (unit := _unit(place))}),
        container=container,
        pod=_only({pod for place in places.values() if (pod := _pod(place))}),
        groups=tuple(sorted((name, group) for name, (_, group) in containers.items())) if container else (),
        is_torn=len(named) > 1,
    )


def read_depths() -> Depths | None:
    """How deep this process's own view of the hierarchies begins; None when that cannot be known.

    1. In the first cgroup namespace everything is seen from the root.
    2. Elsewhere the thread that starts all kernel threads tells: it stays at the root of every hierarchy, and shows
       as one `/..` for each level. It is process 2 of the host, which only a reader of the host's processes sees.
    """
    try:
        # (1)
        if os.stat("/proc/self/ns/cgroup").st_ino == _FIRST_NAMESPACE:
            return HOST
        # (2)
        with open(f"/proc/{_KTHREADD}/stat", encoding="ascii", errors="replace") as file:
            stat = file.read()
        if not int(stat[stat.rindex(")") + 2 :].split()[_FLAGS - 3]) & _PF_KTHREAD:
            return None
        with open(f"/proc/{_KTHREADD}/cgroup", encoding="utf-8", errors="replace") as file:
            lines = [line.split(":", 2) for line in file.read(MAX_BYTES).splitlines()]
    except (OSError, ValueError, IndexError):
        return None
    found = {}
    for line in lines:
        words = line[-1].split("/")[1:]
        if len(line) != 3 or set(words) - {"..", ""}:
            return None
        found[line[1]] = words.count("..")
    return found


def _only(found: set[str]) -> str:
    return next(iter(found)) if len(found) == 1 else ""


def _place(path: str, depth: int) -> _Place | None:
    """Where a path is, as seen by a reader who stands `depth` groups below the root.

    1. Only a plain path says something.
    2. One that leads up to the root is the host's own path.
    3. One that leads up less begins below groups that the reader itself is in. One that leads up not at all is in the
       reader's own group, where whoever shares it names groups as it likes: it says nothing.
    """
    # (1)
    if not path.startswith("/") or len(path) > _MAX_PATH or not path.isprintable() or path.endswith(" (deleted)"):
        return None
    words = path[1:].split("/") if path != "/" else []
    ups = next((index for index, word in enumerate(words) if word != ".."), len(words))
    words = words[ups:]
    if ups > depth or {"", ".", ".."} & set(words):
        return None
    # (2)
    if ups == depth:
        return _Place(words=tuple(words), hidden=0)
    # (3)
    return _Place(words=tuple(words), hidden=depth - ups) if ups else None


def _unit(place: _Place) -> str:
    """The system manager's unit: the first word that is no slice (systemd.slice(5)).

    A user's own manager is `user@UID.service`; what it calls its units below that is the user's word.
    """
    if place.hidden:
        return ""
    for word in place.words:
        # a name that would be one of the kernel's files is escaped by a `_` in front
        name = word.removeprefix("_")
        if name.endswith(".slice"):
            continue
        return name if _UNIT.match(name) else ""
    return ""


def _container(place: _Place) -> tuple[str, str] | None:
    """The outermost container, below a runtime's or the kubelet's own groups, and its group's path."""
    words = place.words
    if not words or not (place.hidden or words[0] in _ROOTS or _COLONS.match(words[0])):
        return None
    for index, word in enumerate(words):
        found = _CONTAINER.match(word) or _COLONS.match(word)
        if found and not (words[0] == _PODS_BARE and word == found["id"]):
            return found["id"], f"{place.hidden}/" + "/".join(words[: index + 1])
        # a service's or a scope's user may name what is below it
        if word.endswith((".service", ".scope")):
            return None
    return None


def _pod(place: _Place) -> str:
    words: Sequence[str] = place.words
    if not words:
        return ""
    colons = _COLONS.match(words[0])
    if colons:
        words = [colons["slice"]]
    elif not place.hidden and words[0] not in {"kubepods", "kubepods.slice"}:
        return ""
    for word in words:
        if found := _POD.match(word):
            return found["uid"].replace("_", "-")
        if _CONTAINER.match(word) or word.endswith((".service", ".scope")):
            return ""
    return ""
