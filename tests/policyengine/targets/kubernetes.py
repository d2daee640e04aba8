"""NetworkPolicy as the Kubernetes documentation has it: additive, isolated once selected, for ingress and egress.

And Cilium's, which shares the shape: selectors over labels, in Cilium's case with the namespace among them, and HTTP
rules that match the whole of what they name.
"""

from __future__ import annotations

import ipaddress
import re

from tests.policyengine.targets.wire import Call, identity

POD_NAMESPACE = "k8s:io.kubernetes.pod.namespace"
ACCOUNT = "k8s:io.cilium.k8s.policy.serviceaccount"


def selects(selector, labels) -> bool:
    if not all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for entry in selector.get("matchExpressions", []):
        key, operator, values = entry["key"], entry["operator"], entry.get("values", [])
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not holds:
            return False
    return True


def port_fits(entries, port, names=()) -> bool:
    if not entries:
        return True
    for entry in entries:
        if entry.get("protocol", "TCP") != "TCP":
            continue
        wanted = entry.get("port")
        if wanted is None:
            return True
        if isinstance(wanted, str):
            if dict(names).get(wanted) == port:
                return True
        elif wanted <= port <= entry.get("endPort", wanted):
            return True
    return False


class Cluster:
    """Policies, and pods as (namespace, labels, address)."""

    def __init__(self, documents, names=()):
        self.policies = [item for item in documents if item["kind"] == "NetworkPolicy"]
        self.names = names

    def peer_fits(self, peer, home, pod) -> bool:
        namespace, labels, address = pod
        if "ipBlock" in peer:
            found = ipaddress.ip_address(address)
            block = peer["ipBlock"]
            inside = found in ipaddress.ip_network(block["cidr"])
            return inside and not any(found in ipaddress.ip_network(cut) for cut in block.get("except", []))
        if namespace is None:
            return False
        if "namespaceSelector" in peer:
            if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace}):
                return False
        elif namespace != home:
            return False
        return selects(peer.get("podSelector", {}), labels)

    def direction(self, pod, other, port, kind, field) -> bool:
        namespace, labels, _ = pod
        mine = [
            item
            for item in self.policies
            if item["metadata"].get("namespace", "default") == namespace
            and kind
            in (item["spec"].get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in item["spec"] else [])])
            and selects(item["spec"].get("podSelector", {}), labels)
        ]
        if not mine:
            return True
        for item in mine:
            for rule in item["spec"].get(kind.lower()) or []:
                peers = rule.get(field)
                if (not peers or any(self.peer_fits(peer, namespace, other) for peer in peers)) and port_fits(
                    rule.get("ports"), port, self.names
                ):
                    return True
        return False

    def connects(self, caller, called, port) -> bool:
        if caller[0] is not None and not self.direction(caller, called, port, "Egress", "to"):
            return False
        return self.direction(called, caller, port, "Ingress", "from")


class Cilium:
    """One endpoint with the CiliumNetworkPolicies that select it."""

    def __init__(self, documents, namespace, account):
        mine = {POD_NAMESPACE: namespace, ACCOUNT: account}
        self.rules = [
            rule
            for item in documents
            if item["metadata"]["namespace"] == namespace and selects(item["spec"]["endpointSelector"], mine)
            for rule in item["spec"]["ingress"]
        ]

    def allows(self, call: Call) -> bool:
        found = identity(call.caller)
        if found is None or found[0] != "corp.test":
            return False  # no pod of the cluster
        labels = {POD_NAMESPACE: found[1], ACCOUNT: found[2]}
        for rule in self.rules:
            if not any(selects(selector, labels) for selector in rule.get("fromEndpoints", [])):
                continue
            for to in rule.get("toPorts", []):
                if not any(entry["port"] == str(call.port) for entry in to["ports"]):
                    continue
                http = to.get("rules", {}).get("http")
                if http is None or (call.protocol != "tcp" and any(self.http(row, call) for row in http)):
                    return True
        return False

    def http(self, row, call) -> bool:
        for field, value in (("method", call.method), ("path", call.path), ("host", call.host)):
            if field in row and re.fullmatch(row[field], value) is None:
                return False
        headers = {name.lower(): value for name, value in call.headers}
        return all(headers.get(match["name"].lower()) == match["value"] for match in row.get("headerMatches", []))
