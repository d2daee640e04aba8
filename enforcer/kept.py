"""What runs on this host, on the disk: so that an agent that comes back knows its predecessor's workloads again.

One JSON file a workload, replaced atomically. A reboot makes all of them void, so nothing has to be durable beyond the
page cache: what a killed agent wrote is there. No secret stands in them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib

from enforcer.attest import Launch
from enforcer.ports import Ports

_VERSION = 2
_BOOT = "/proc/sys/kernel/random/boot_id"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeptSidecar:
    """A sidecar process: pid and start time, which of its workload's places it has or had, and of what code it is."""

    process: tuple[int, int]
    place: int = 0
    is_draining: bool = False
    build: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A workload as its agent last knew it.

    ``spiffe_id`` is empty before it had one. ``group`` and ``redirect_port`` are of one that is redirected
    (`enforcer.redirect`).
    """

    number: int
    name: str
    ports: Ports
    launch: Launch
    spiffe_id: str = ""
    sidecars: tuple[KeptSidecar, ...] = ()
    sidecar_uid: int | None = None
    group: str = ""
    redirect_port: int = 0


class KeptWorkloads:
    """The records of one agent."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save(self, kept: Kept) -> None:
        """Write a workload's record, in the place of the one before."""
        draft = self._folder / f".{kept.number}"
        row = {"version": _VERSION, "boot": _boot(), **dataclasses.asdict(kept)}
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(row, file)
        draft.replace(self._path(kept.number))

    def forget(self, number: int) -> None:
        """Remove a workload's record: it ended."""
        self._path(number).unlink(missing_ok=True)

    def load(self) -> list[Kept]:
        """The records of this boot, by number; others, and what cannot be read, are removed."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            kept = None
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                kept = _read(json.loads(path.read_text("utf-8")))
            if kept is None or path != self._path(kept.number):
                path.unlink(missing_ok=True)
            else:
                found.append(kept)
        return sorted(found, key=lambda kept: kept.number)

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / f"{number}.json"


def _boot() -> str:
    return pathlib.Path(_BOOT).read_text("ascii").strip()


def _read(row: dict[str, object]) -> Kept | None:
    """Read a record; None for one of another boot or of an unknown version. Raises what a malformed one raises."""
    if row.pop("version") != _VERSION or row.pop("boot") != _boot():
        return None
    launch, ports, sidecars = row.pop("launch"), row.pop("ports"), row.pop("sidecars")
    if not isinstance(launch, dict) or not isinstance(ports, dict) or not isinstance(sidecars, list):
        raise TypeError("a record has a launch, ports and sidecars")
    facts = tuple((str(name), str(value)) for name, value in launch.pop("facts"))
    sdk = ports.pop("sdk", False) is True
    intercept, egress = ports.pop("intercept", False) is True, tuple(str(text) for text in ports.pop("egress", ()))
    workers, health = int(ports.pop("workers", 1)), tuple(str(text) for text in ports.pop("health", ()))
    layout = tuple(int(word) for word in launch.pop("layout"))
    return Kept(
        launch=Launch(**launch, layout=layout, facts=facts),
        ports=Ports(
            **{name: tuple(tuple(item) for item in items) for name, items in ports.items()},
            health=health,
            intercept=intercept,
            egress=egress,
            sdk=sdk,
            workers=workers,
        ),
        sidecars=tuple(_read_sidecar(found, workers) for found in sidecars),
        **row,  # type: ignore[arg-type]  # names and kinds were checked where they are used; a wrong one raises there
    )


def _read_sidecar(row: object, workers: int) -> KeptSidecar:
    process = row.pop("process") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(process, list):
        raise TypeError("a process is a pid and a start time")
    pid, start = process
    found = KeptSidecar(process=(int(pid), int(start)), **row)
    if type(found.place) is not int or not 0 <= found.place < workers:
        raise ValueError("a sidecar has one of its workload's places")
    return found
