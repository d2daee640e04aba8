"""Who an address was at a moment: files that map addresses, ports and times to SPIFFE IDs, or Kubernetes objects.

What cannot be attributed stays without an identity: it is counted and listed, never guessed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
import json
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from mesh.clock import parse_time
from mesh.flow import Flow
from mesh.problems import Diagnostic, Invalid, Span
from mesh.spiffe import SpiffeId, SpiffeIdError

# what Istio calls a trust domain that nobody named
TRUST_DOMAIN = "cluster.local"
_FIELDS = frozenset({"ip", "port", "spiffe_id", "from", "until"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """An address (and port) that belonged to a workload for a while; None is "any"."""

    ip: str
    spiffe_id: str
    port: int | None = None
    begin: dt.datetime | None = None
    end: dt.datetime | None = None

    def covers(self, port: int | None, moment: dt.datetime) -> bool:
        """Whether it speaks of a port at a moment; the end is not part of it."""
        if self.port is not None and self.port != port:
            return False
        return (self.begin is None or self.begin <= moment) and (self.end is None or moment < self.end)


class Workloads:
    """All assignments, by address."""

    def __init__(self, assignments: Iterable[Assignment] = ()) -> None:
        self._by_ip: defaultdict[str, list[Assignment]] = defaultdict(list)
        self.add(assignments)

    def add(self, assignments: Iterable[Assignment]) -> None:
        """Take more assignments in."""
        for item in assignments:
            self._by_ip[item.ip].append(item)

    def identities(self) -> frozenset[str]:
        """Every identity that the map names."""
        return frozenset(item.spiffe_id for found in self._by_ip.values() for item in found)

    def identity(self, ip: str | None, port: int | None, moment: dt.datetime) -> str | None:
        """Who an address was: an assignment with the port wins; two that disagree are nobody."""
        names = {item.spiffe_id for item in self._best(ip, port, moment)}
        return names.pop() if len(names) == 1 else None

    def _best(self, ip: str | None, port: int | None, moment: dt.datetime) -> list[Assignment]:
        if ip is None:
            return []
        fitting = [item for item in self._by_ip.get(normal_ip(ip), ()) if item.covers(port, moment)]
        return [item for item in fitting if item.port is not None] or fitting

    def attribute(self, flows: Iterable[Flow]) -> Iterator[Flow]:
        """Fill in the identities that flows lack and the map knows."""
        for flow in flows:
            source = flow.source or self.identity(flow.source_ip, None, flow.start)
            destination = flow.destination or self.identity(flow.destination_ip, flow.destination_port, flow.start)
            if (source, destination) == (flow.source, flow.destination):
                yield flow
            else:
                yield dataclasses.replace(flow, source=source, destination=destination)


def from_endpoints(rows: object) -> list[Assignment]:
    """The assignments of the listeners that agents reported to their server; rows that are none are left out."""
    out = []
    for row in rows if isinstance(rows, list) else []:
        name, address, port = (row.get(key) for key in ("spiffe_id", "address", "port"))
        try:
            ipaddress.ip_address(str(address))
            SpiffeId.parse(str(name))
        except (ValueError, SpiffeIdError):
            continue
        if type(port) is int:
            out.append(Assignment(ip=normal_ip(str(address)), spiffe_id=str(name), port=port))
    return out


def normal_ip(text: str) -> str:
    """One spelling per address; an IPv4 address inside IPv6 is the IPv4 address."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return text
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found)


def read_workloads(path: pathlib.Path, trust_domain: str = TRUST_DOMAIN) -> tuple[Workloads, list[Diagnostic]]:
    """Read a map, one JSON object a line, or a document of Kubernetes objects (`learner.kubernetes`).

    Every line that breaks the format is a finding, and so is a service whose addresses are nobody's. Identities of
    Kubernetes are of the trust domain.

    Raises Invalid LM4001 when the file cannot be read.
    """
    from learner import kubernetes  # noqa: PLC0415  it speaks in assignments

    found: list[Assignment] = []
    findings: list[Diagnostic] = []
    try:
        data = path.read_bytes()
    except OSError as err:
        raise Invalid("LM4001", file=str(path), reason=err.strerror or str(err)) from err
    document = kubernetes.is_objects(data)
    if document is not None:
        found, reasons = kubernetes.assignments(document, trust_domain)
        place = Span(file=str(path), line=1, column=1)
        findings += [Diagnostic(code="LM4017", span=place, facts={"reason": text[:300]}) for text in reasons]
        return Workloads(found), findings
    lines = data.splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(_assignment(json.loads(line.decode("utf-8"))))
            except (ValueError, RecursionError) as err:
                place = Span(file=str(path), line=number, column=1)
                findings.append(Diagnostic(code="LM4003", span=place, facts={"reason": str(err)[:300]}))
    return Workloads(found), findings


def _assignment(row: object) -> Assignment:
    if not isinstance(row, dict) or not set(row) <= _FIELDS:
        raise ValueError("a line is an object of `ip`, `port`, `spiffe_id`, `from` and `until`")
    ip, name, port = row.get("ip"), row.get("spiffe_id"), row.get("port")
    if not isinstance(ip, str) or not isinstance(name, str):
        raise ValueError("`ip` and `spiffe_id` are text")
    ipaddress.ip_address(ip)
    try:
        SpiffeId.parse(name)
    except SpiffeIdError as err:
        raise ValueError(f"`spiffe_id`: {err}") from err
    if port is not None and (type(port) is not int or not 0 < port < 65536):
        raise ValueError("`port` is a port")
    begin, end = row.get("from"), row.get("until")
    return Assignment(
        ip=normal_ip(ip),
        spiffe_id=name,
        port=port,
        begin=parse_time(str(begin)) if begin is not None else None,
        end=parse_time(str(end)) if end is not None else None,
    )
