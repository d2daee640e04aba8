"""The bundles of other trust domains on a host, and who is given which: never merged, never more than was asked for.

A workload is given what its identity rule names (`federates_with`); a sidecar also what the active policies of its
workload allow by name, callers and called alike. `any` names nobody: it opens no trust domain by itself. Kept on the
disk, so that an agent that starts without its server goes on. What a bundle vouches for, only the verifier says.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping

import structlog

from enforcer.identity import Identity
from enforcer.nodestate import replace_file
from mesh.bundle import TrustBundle, parse_bundle
from mesh.problems import Invalid
from mesh.request import Effect
from mesh.spiffe import SpiffeId, SpiffeIdError, SpiffePattern, TrustDomain
from policyengine.model import PolicySet, Principals

_FILE = "federated.json"


class Federated:
    """What a host holds of other trust domains."""

    def __init__(self, folder: pathlib.Path, own: TrustDomain) -> None:
        self._path, self._own = folder / _FILE, own
        self._bundles: dict[str, TrustBundle] = {}
        try:
            kept = json.loads(self._path.read_text("utf-8"))
            self._bundles = _read(own, {name: text.encode() for name, text in kept.items()})
        except (OSError, ValueError, AttributeError):
            # a first start, or a file that cannot be read: the server tells it all again
            self._bundles = {}

    def take(self, documents: Mapping[str, bytes]) -> bool:
        """Take all there is, in full: what is not named is believed no longer. Return whether anything changed."""
        found = _read(self._own, documents)
        if found == self._bundles:
            return False
        replace_file(self._path, json.dumps({name: item.to_json().decode() for name, item in found.items()}).encode())
        self._bundles = found
        return True

    def every(self) -> dict[str, TrustBundle]:
        """Every bundle by the name of its trust domain (F-17)."""
        return dict(self._bundles)

    def given(self, identity: Identity, policies: PolicySet | None) -> dict[str, TrustBundle]:
        """What the sidecar of an identity is given: what its rule names, and what its policies allow by name."""
        named = set(identity.federates_with)
        if policies is not None and self._bundles:
            named |= {str(found) for found in named_domains(policies, identity.svid.spiffe_id)}
        return {name: found for name, found in self._bundles.items() if name in named}


def given_to(identities: Iterable[Identity], bundles: Mapping[str, TrustBundle]) -> dict[str, TrustBundle]:
    """Of all bundles, those that a caller of the Workload API is given: its own domains' and what its rules name."""
    named = {name for found in identities for name in (found.svid.spiffe_id.trust_domain.name, *found.federates_with)}
    return {name: found for name, found in bundles.items() if name in named}


def named_domains(policies: PolicySet, spiffe_id: SpiffeId) -> frozenset[TrustDomain]:
    """The trust domains that allows name together with a workload: its callers', and those of services it may call.

    1. Of a service that the workload is one of: the domains of those whom SOME allow of it names.
    2. Of a service that SOME allow lets the workload call: the domains of its identities.
    """
    found: set[TrustDomain] = set()
    allows: dict[str, list[Principals]] = {}
    for policy in policies.policies:
        rules = [policies.expand(rule.from_) for rule in policy.rules if rule.effect is Effect.ALLOW]
        allows.setdefault(policy.service, []).extend(rules)
    for grant in policies.exceptions:
        allows.setdefault(grant.service, []).append(policies.expand(grant.from_))
    for service in policies.services:
        told = allows.get(service.name, [])
        # (1)
        if any(pattern.matches(spiffe_id) for pattern in service.identities):
            found |= {domain for item in told for domain in _domains(item.patterns)}
        # (2)
        if any(item.contains(spiffe_id) for item in told):
            found |= _domains(service.identities)
    return frozenset(found)


def _domains(patterns: Iterable[SpiffePattern]) -> set[TrustDomain]:
    return {pattern.id.trust_domain for pattern in patterns}


def _read(own: TrustDomain, documents: Mapping[str, bytes]) -> dict[str, TrustBundle]:
    found: dict[str, TrustBundle] = {}
    for name, data in sorted(documents.items()):
        try:
            domain = TrustDomain.parse(name)
            if domain != own:
                found[name] = parse_bundle(domain, data)
        except (Invalid, SpiffeIdError):
            structlog.get_logger().error("a federated bundle cannot be read", trust_domain=name, code="LM1513")
    return found
