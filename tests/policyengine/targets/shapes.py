"""Policy sets in the shape that a target asks for, and the names that its workloads have there."""

from __future__ import annotations

import dataclasses

from mesh.spiffe import SpiffeId
from policyengine import model
from policyengine.compile.export import Workload

CONSUL_NAMES = {
    "spiffe://corp.test/ns/shop/sa/cart": "cart",
    "spiffe://corp.test/ns/shop/sa/web": "web",
    "spiffe://corp.test/ns/ops/sa/admin": "admin",
}
CONSUL_WORKLOADS = {SpiffeId.parse(identity): Workload(consul=name) for identity, name in CONSUL_NAMES.items()}


def on_one_port(policies: model.PolicySet) -> model.PolicySet:
    """The same set where `db` has its http port alone, as Consul's services have one."""
    services = tuple(
        dataclasses.replace(item, ports=item.ports[:1]) if item.name == "db" else item for item in policies.services
    )
    listed = tuple(
        dataclasses.replace(item, rules=kept)
        for item in policies.policies
        if (kept := tuple(rule for rule in item.rules if not rule.to or rule.to[0].ports != (5432,)))
    )
    return dataclasses.replace(policies, services=services, policies=listed)
