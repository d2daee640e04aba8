"""What a target sees of a request, in its own words: no canonical form, no three values."""

from __future__ import annotations

import dataclasses

from mesh.request import Request


@dataclasses.dataclass(frozen=True)
class Call:
    """A request as the other systems' documents speak of it. ``caller`` is a SPIFFE ID or None for plaintext."""

    caller: str | None
    port: int = 8080
    protocol: str = "http"
    method: str = "GET"
    host: str = "db.corp.test"
    path: str = "/a"
    headers: tuple[tuple[str, str], ...] = ()
    claims: tuple[tuple[str, object], ...] | None = None
    peer_ip: str = "10.0.0.1"
    forwarded_ip: str | None = None

    def request(self, service: str) -> Request:
        """The same for Limen."""
        if self.protocol == "tcp":
            return Request(
                service=service, port=self.port, protocol="tcp", source=self.caller, peer_ip=self.peer_ip, time=None
            )
        return Request(
            service=service,
            port=self.port,
            protocol="http",
            source=self.caller,
            method=self.method,
            host=self.host,
            path=self.path,
            headers=self.headers,
            claims=None if self.claims is None else dict(self.claims),
            peer_ip=self.peer_ip,
            forwarded_ip=self.forwarded_ip,
            time=None,
        )


def identity(caller: str | None) -> tuple[str, str, str] | None:
    """Trust domain, namespace and service account of a caller as Kubernetes meshes issue them."""
    if caller is None:
        return None
    parts = caller.removeprefix("spiffe://").split("/")
    if len(parts) == 5 and parts[1] == "ns" and parts[3] == "sa":
        return parts[0], parts[2], parts[4]
    return None
