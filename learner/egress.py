"""Calls to names outside as rules: who may ask the gateway that they leave by for which name, each with its evidence.

The policy language speaks of identities, and a name outside has none: what has one is the gateway, whose listener sees
who asks and for which host. A rule is about one caller and one name; peers that are known by an address alone are left
in the list of egress, and so is what is quarantined. Pure.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence

from learner.history import BEYOND, History, Kind
from learner.naming import owner_of, plain_name, service_names
from learner.proposal import Grant, ProposedRule, ProposedService
from learner.propose import Lesson, evidence_of, grants_of, is_workload, templates_of

_NAME = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?\.?\Z", re.IGNORECASE
)

_INSIDE = (".svc", ".cluster.local", ".local", ".localhost")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What everything leaves by: an identity, and the HTTP port at which it is asked for names."""

    identity: str
    port: int


def read_gateway(text: str) -> Gateway:
    """Read `SPIFFE_ID:PORT`.

    Raises ValueError for anything else.
    """
    identity, _, port = text.rpartition(":")
    if not is_workload(identity) or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("it is the SPIFFE ID of a workload and a port, `spiffe://…:8080`")
    return Gateway(identity=identity, port=int(port))


def is_name(text: str) -> bool:
    """Whether a peer is known by a DNS name of the world outside: no address, no name of a cluster's or a host's."""
    inside = text.lower().removesuffix(".").endswith(_INSIDE)
    return len(text) <= 253 and _NAME.match(text) is not None and not inside


def outside(history: History, lesson: Lesson) -> tuple[Kind, ...]:
    """Calls of workloads to names outside that were answered well and are not quarantined."""
    quarantined = {(item.source, item.destination, item.port) for item in lesson.suspicion.quarantined}
    return tuple(
        kind
        for key, kind in sorted(history.kinds.items(), key=lambda item: item[0])
        if kind.good
        and kind.shape != BEYOND
        and kind.has_source
        and not kind.has_destination
        and key not in lesson.suspicion.excluded
        and kind.edge not in quarantined
        and is_workload(kind.source)
        and is_name(kind.destination)
    )


def egress_service(history: History, lesson: Lesson, gateway: Gateway, name: str) -> ProposedService | None:
    """The gateway as a called service of a name; None where nobody called a name outside.

    1. One rule for each caller and name, whatever ports the name was called at: the gateway is asked for a host.
    2. Where requests were seen, it is held to their methods and templates; a connection is all of the host.
    """
    kinds = outside(history, lesson)
    by_call: defaultdict[tuple[str, str], list[Kind]] = defaultdict(list)
    for kind in kinds:
        if kind.protocol != "udp":
            by_call[kind.source, kind.destination.lower().removesuffix(".")].append(kind)
    if not by_call:
        return None
    seen = dataclasses.replace(lesson, kinds=kinds, templates=templates_of(kinds))
    callers = service_names(sorted({caller for caller, _ in by_call}))
    # (1)
    rules = tuple(
        ProposedRule(
            id=f"{plain_name(callers[caller])}-to-{plain_name(host)}",
            caller=caller,
            grants=_grants(found, seen, gateway, host),
            evidence={**evidence_of(found), "ports": sorted({kind.port for kind in found})},
        )
        for (caller, host), found in sorted(by_call.items())
    )
    return ProposedService(
        name=name,
        owner=owner_of(gateway.identity),
        identity=gateway.identity,
        ports=((gateway.port, "http"),),
        rules=rules,
        policy=f"{name}-egress",
    )


def _grants(kinds: Sequence[Kind], lesson: Lesson, gateway: Gateway, host: str) -> tuple[Grant, ...]:
    """Step 2 of `egress_service`."""
    requests = [kind for kind in kinds if kind.protocol != "tcp"]
    if len(requests) < len(kinds):
        return (Grant(port=gateway.port, hosts=(host,)),)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for grant in grants_of(requests, lesson):
        for method, paths in grant.operations:
            found[method].update(paths)
    if not found:
        return (Grant(port=gateway.port, hosts=(host,)),)
    operations = tuple((method, tuple(sorted(paths))) for method, paths in sorted(found.items()))
    return (Grant(port=gateway.port, operations=operations, hosts=(host,)),)
