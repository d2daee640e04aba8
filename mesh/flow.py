"""A flow: the aggregated conversation of a source with a destination, the unit that the learner reads.

The JSON form is the public one (`limen learn propose`, `limen flows`). This module does no I/O.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping
from typing import Literal, cast

from mesh.clock import format_time, parse_time

FlowProtocol = Literal["tcp", "udp", "http", "grpc"]
_PROTOCOLS = ("tcp", "udp", "http", "grpc")


class Verdict(enum.StrEnum):
    """What happened to a flow."""

    ALLOWED = "allowed"
    DENIED = "denied"
    WOULD_DENY = "would-deny"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One aggregated conversation. Identities are SPIFFE IDs as text; unattributed sides are None.

    ``connections`` counts the connections (or exchanges) that were folded into it. ``established`` is None
    when the source of the data cannot tell. ``host`` is the name that was asked for (a Host, a server name of TLS, a
    name that DNS answered with the address); ``decision`` names the decision record.
    """

    start: dt.datetime
    destination_port: int
    protocol: FlowProtocol
    end: dt.datetime | None = None
    source: str | None = None
    destination: str | None = None
    source_ip: str | None = None
    destination_ip: str | None = None
    method: str | None = None
    path: str | None = None
    status: int | None = None
    established: bool | None = None
    replica: str | None = None
    version: str | None = None
    sensor: str | None = None
    verdict: Verdict | None = None
    connections: int = 1
    host: str | None = None
    decision: str | None = None
    source_port: int | None = None

    def to_json(self) -> dict[str, object]:
        """The public JSON object; absent optional facts are left out."""
        out: dict[str, object] = {"start": format_time(self.start)}
        if self.end is not None:
            out["end"] = format_time(self.end)
        out["source"] = self.source
        out["destination"] = self.destination
        for name in ("source_ip", "destination_ip"):
            if (value := getattr(self, name)) is not None:
                out[name] = value
        if self.source_port is not None:
            out["source_port"] = self.source_port
        out["destination_port"] = self.destination_port
        out["protocol"] = self.protocol
        for name in ("method", "path", "status", "established", "replica", "version", "sensor", "host", "decision"):
            if (value := getattr(self, name)) is not None:
                out[name] = value
        if self.verdict is not None:
            out["verdict"] = str(self.verdict)
        out["connections"] = self.connections
        return out


def _text(row: Mapping[str, object], name: str) -> str | None:
    value = row.get(name)
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"`{name}` must be text")


def _number(row: Mapping[str, object], name: str, low: int, high: int) -> int | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"`{name}` must be a whole number from {low} to {high}")
    return value


def _moment(name: str, text: str) -> dt.datetime:
    try:
        return parse_time(text)
    except ValueError as err:
        raise ValueError(f"`{name}`: {err}") from err


def flow_from_json(row: Mapping[str, object]) -> Flow:
    """Read the public JSON object of a flow.

    Raises ValueError, with a sentence that names the field, for a row that breaks the format.
    Unknown fields are ignored: flows come from many tools and versions.
    """
    start, end = _text(row, "start"), _text(row, "end")
    if start is None:
        raise ValueError("`start` is required")
    port = _number(row, "destination_port", 0, 65535)
    protocol = _text(row, "protocol")
    if port is None:
        raise ValueError("`destination_port` is required")
    if protocol not in _PROTOCOLS:
        raise ValueError("`protocol` must be one of tcp, udp, http, grpc")
    established = row.get("established")
    if established is not None and not isinstance(established, bool):
        raise ValueError("`established` must be true or false")
    verdict = _text(row, "verdict")
    if verdict is not None and verdict not in frozenset(Verdict):
        raise ValueError("`verdict` must be one of " + ", ".join(Verdict))
    source, destination = _text(row, "source"), _text(row, "destination")
    source_ip, destination_ip = _text(row, "source_ip"), _text(row, "destination_ip")
    if source is None and source_ip is None and "source" not in row:
        raise ValueError("one of `source` and `source_ip` is required")
    if destination is None and destination_ip is None and "destination" not in row:
        raise ValueError("one of `destination` and `destination_ip` is required")
    connections = _number(row, "connections", 1, 2**53)
    return Flow(
        start=_moment("start", start),
        end=_moment("end", end) if end is not None else None,
        source=source,
        destination=destination,
        source_ip=source_ip,
        destination_ip=destination_ip,
        destination_port=port,
        protocol=cast("FlowProtocol", protocol),  # membership was checked above
        method=_text(row, "method"),
        path=_text(row, "path"),
        status=_number(row, "status", 0, 999),
        established=established,
        replica=_text(row, "replica"),
        version=_text(row, "version"),
        sensor=_text(row, "sensor"),
        verdict=Verdict(verdict) if verdict is not None else None,
        connections=1 if connections is None else connections,
        host=_text(row, "host"),
        decision=_text(row, "decision"),
    )
