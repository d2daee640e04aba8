"""The ports that a workload asked for: where it is reached, and where it reaches others."""

from __future__ import annotations

import dataclasses

MAX_WORKERS = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a workload asked for: (address, port, app port) inbound, (local port, service, port or None) outbound.

    ``health`` are the ports where health checks from outside the mesh are answered (`enforcer.health`).

    With ``intercept`` all it sends is redirected, and ``egress`` says what that may reach (`enforcer.egress`). With
    ``sdk`` there is no sidecar, and the program itself listens at the ports (`enforcer.inprocess`). ``workers`` is how
    many sidecars share the ports.
    """

    inbound: tuple[tuple[str, int, int], ...] = ()
    outbound: tuple[tuple[int, str, int | None], ...] = ()
    health: tuple[str, ...] = ()
    intercept: bool = False
    egress: tuple[str, ...] = ()
    sdk: bool = False
    workers: int = 1

    def message(self) -> dict[str, object]:
        """The `listeners` message, but for the port to redirect to."""
        return {
            "type": "listeners",
            "inbound": [{"address": host, "port": port, "app_port": app} for host, port, app in self.inbound],
            "outbound": [
                {"local_port": local, "service": service, "port": port} for local, service, port in self.outbound
            ],
            "health": list(self.health),
            "egress": list(self.egress),
        }
