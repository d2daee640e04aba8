"""What a proxy in between says of one exchange, as flows: who called it, and whom it called.

Envoy's JSON and text logs and its gRPC entries say the same facts in three spellings; this is what they mean. It
does no I/O.

1. An inbound sidecar (a cluster of Istio's `inbound|` kind, or one on loopback while its own address is not) speaks
   for the workload beside it: the callee is the address that the caller connected to.
2. An outbound sidecar (`outbound|`) speaks for the caller beside it: the callee is the upstream host.
3. Any other proxy is a workload of its own: one flow to it, one from it to the upstream host.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress

from mesh.flow import Flow, FlowProtocol, Verdict

Socket = tuple[str, int | None]
NO_CALLEE = "without an address of the callee"
# the proxy has no connection to the upstream host: no host, no route, refused, no cluster, filter chain not found
_UNCONNECTED = frozenset({"UH", "UF", "NR", "NC", "NFCF", "UO"})
# what a caller asks for in vain, as the HTTP status that says the same (grpc/doc/http-grpc-status-mapping.md)
_GRPC = {7: 403, 12: 404, 16: 401}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request, or one TCP connection, as the proxy saw it. Absent facts are None."""

    start: dt.datetime
    end: dt.datetime | None = None
    downstream: Socket | None = None
    local: Socket | None = None
    upstream: Socket | None = None
    upstream_local: Socket | None = None
    cluster: str | None = None
    peer_id: str | None = None
    local_id: str | None = None
    method: str | None = None
    path: str | None = None
    status: int | None = None
    grpc_status: int | None = None
    is_grpc: bool = False
    flags: frozenset[str] = frozenset()
    is_denied: bool = False
    host: str | None = None


def host_of(server_name: str | None, authority: str | None) -> str | None:
    """The name that was asked for: of TLS, or of the request without its port."""
    found = server_name or (authority or "").rpartition("@")[2]
    name, colon, port = found.rpartition(":")
    if colon and port.isdigit() and ":" not in name:
        found = name
    return found[:253] or None


def flows_of(found: Exchange, sensor: str) -> list[Flow | str]:
    """The flows of one exchange; a sentence where it names no callee."""
    # (2)
    if found.cluster is not None and found.cluster.startswith("outbound|"):
        return [_to_upstream(found, sensor, found.downstream)]
    # (1), (3)
    out: list[Flow | str] = [_to_proxy(found, sensor)]
    if not _is_inbound(found) and found.upstream is not None:
        out.append(_to_upstream(found, sensor, found.upstream_local or found.local))
    return out


def physical(found: Socket | None) -> Socket | None:
    """A peer's socket; one without a port was taken from a header that any caller may write, and is nobody's."""
    return found if found is not None and found[1] else None


def _is_inbound(found: Exchange) -> bool:
    if found.cluster is not None and found.cluster.startswith("inbound|"):
        return True
    if found.upstream is None or found.local is None:
        return False
    upstream, local = (ipaddress.ip_address(item[0]) for item in (found.upstream, found.local))
    return upstream.is_loopback and not local.is_loopback


def _to_proxy(found: Exchange, sensor: str) -> Flow | str:
    if found.local is None or found.local[1] is None:
        return NO_CALLEE
    is_http = found.method is not None
    established = True if is_http else not found.flags & _UNCONNECTED
    return _flow(found, sensor, found.downstream, found.local, established=established and not found.is_denied)


def _to_upstream(found: Exchange, sensor: str, source: Socket | None) -> Flow | str:
    if found.upstream is None or found.upstream[1] is None:
        return NO_CALLEE
    # the certificates are those of the connection to the proxy: they say nothing of this one
    bare = dataclasses.replace(found, peer_id=None, local_id=None)
    established = not found.flags & _UNCONNECTED and not found.is_denied
    made = _flow(bare, sensor, source, found.upstream, established=established)
    # a peer without an identity is known by its name
    return dataclasses.replace(made, host=found.host)


def _flow(found: Exchange, sensor: str, source: Socket | None, callee: Socket, *, established: bool) -> Flow:
    status = found.status or None
    if found.is_grpc and found.grpc_status is not None:
        status = _GRPC.get(found.grpc_status, status)
    protocol: FlowProtocol = "tcp" if found.method is None else "grpc" if found.is_grpc else "http"
    return Flow(
        start=found.start,
        end=found.end,
        source=found.peer_id,
        destination=found.local_id,
        source_ip=source[0] if source else None,
        destination_ip=callee[0],
        destination_port=callee[1] or 0,
        protocol=protocol,
        method=found.method,
        path=found.path.partition("?")[0] if found.path is not None else None,
        status=status,
        established=established,
        sensor=sensor,
        verdict=Verdict.DENIED if found.is_denied else None,
    )
