"""Which tier of a data plane each port needs: the cheapest one that can still enforce every rule (design D5).

An http port is parsed while its service is observed, marked `learn`, or some rule of the active or the candidate
snapshot reads a request on it; everything else is decided on the connection. This module compiles nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from mesh.request import Mode
from policyengine.model import PolicySet, Port, Rule, Service


class PortTier(enum.StrEnum):
    """What has to look at a port's bytes: nobody, an HTTP/1.1 parser, or Envoy."""

    L4 = "L4"
    HTTP1 = "HTTP1"
    ENVOY = "ENVOY"


Tiers = Mapping[str, Mapping[int, PortTier]]
_ORDER = (PortTier.L4, PortTier.HTTP1, PortTier.ENVOY)


def choose_tiers(policies: PolicySet) -> dict[str, dict[int, PortTier]]:
    """The tier of every port of every service."""
    return {
        service.name: {port.port: _tier(policies, service, port) for port in service.ports}
        for service in policies.services
    }


def combine(active: Tiers, candidate: Tiers | None) -> dict[str, dict[int, PortTier]]:
    """The tiers while a candidate is decided beside the active snapshot: per port, the one that sees more.

    A port that only the candidate has is not listed: nobody listens on it yet.
    """
    return {
        service: {
            port: max(tier, (candidate or {}).get(service, {}).get(port, PortTier.L4), key=_ORDER.index)
            for port, tier in ports.items()
        }
        for service, ports in active.items()
    }


def to_json(tiers: Tiers) -> dict[str, object]:
    """The JSON object that a snapshot records."""
    return {service: {str(port): str(tier) for port, tier in ports.items()} for service, ports in tiers.items()}


def _tier(policies: PolicySet, service: Service, port: Port) -> PortTier:
    """Choose for one port.

    1. Bytes of a tcp port have no request in them.
    2. A service that asks for Envoy gets it; so does a grpc port on which ANY rule reads the request.
    3. An http port is parsed if its service is observed or learned from, or if ANY rule reads the request.
    """
    # (1)
    if port.protocol == "tcp":
        return PortTier.ENVOY if service.dataplane == "envoy" else PortTier.L4
    reads = any(_reads(rule, port.port) for rule in _rules(policies, service.name))
    # (2)
    if service.dataplane == "envoy" or (port.protocol == "grpc" and reads):
        return PortTier.ENVOY
    # (3) `observe` counts whatever its end: a snapshot has no clock, and parsing too long only costs time
    if port.protocol == "http" and (reads or service.learn or service.mode is Mode.OBSERVE):
        return PortTier.HTTP1
    return PortTier.L4


def _rules(policies: PolicySet, service: str) -> Iterable[Rule]:
    for policy in policies.policies_for(service):
        yield from policy.rules
    for grant in policies.exceptions:
        if grant.service == service:
            yield grant.as_rule()


def _reads(rule: Rule, port: int) -> bool:
    """Whether a rule that may hold on a port looks at a request there."""
    conditions = (rule.when, rule.unless.when if rule.unless else None)
    outside = rule.reads_request_outside_operations or any(
        found is not None and found.rego is not None for found in conditions
    )
    operations = rule.to or (None,)
    return any(
        outside or (operation is not None and operation.reads_request)
        for operation in operations
        if operation is None or operation.ports is None or port in operation.ports
    )
