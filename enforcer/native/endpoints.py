"""Where the workloads of called services can be reached: in turns, and what failed rests for a while."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

RETRY_SECONDS = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a workload's inbound port can be reached."""

    spiffe_id: str
    address: str
    port: int


class Endpoints:
    """The reachable endpoints, in turns; one that failed rests for a while."""

    def __init__(self) -> None:
        self._all: tuple[Endpoint, ...] = ()
        self._turn = 0
        self._failed: dict[Endpoint, float] = {}

    def replace(self, found: Sequence[Endpoint], *, keeps: bool = False) -> None:
        """Take the present list, or with ``keeps`` a part of it, beside what is known."""
        self._all = tuple(dict.fromkeys([*(self._all if keeps else ()), *found]))
        self._failed = {endpoint: at for endpoint, at in self._failed.items() if endpoint in self._all}

    def at(self, address: tuple[str, int]) -> tuple[str, ...]:
        """Who is said to be reachable at an address and port."""
        return tuple(endpoint.spiffe_id for endpoint in self._all if (endpoint.address, endpoint.port) == address)

    def failed(self, endpoint: Endpoint, now: float) -> None:
        """Let an endpoint rest."""
        self._failed[endpoint] = now

    def order(self, is_member: Callable[[str], bool], port: int | None, now: float) -> tuple[Endpoint, ...]:
        """The endpoints of a service in the order in which to try them: rested ones in turns, then the others."""
        found = [e for e in self._all if (port is None or e.port == port) and is_member(e.spiffe_id)]
        if not found:
            return ()
        self._turn += 1
        start = self._turn % len(found)
        turned = found[start:] + found[:start]
        tired = {e for e in turned if now - self._failed.get(e, -RETRY_SECONDS) < RETRY_SECONDS}
        return (*(e for e in turned if e not in tired), *(e for e in turned if e in tired))
