"""Linkerd's policy: a Server denies what nothing authorizes; with routes, the most specific one that fits counts."""

from __future__ import annotations

from tests.policyengine.targets.wire import Call, identity


class Inbound:
    """One workload with its Servers, routes and authorizations."""

    def __init__(self, documents, labels, domain="corp.test"):
        self.domain = domain
        self.by_kind: dict[str, list] = {}
        for item in documents:
            self.by_kind.setdefault(item["kind"], []).append(item)
        self.servers = [
            item
            for item in self.by_kind.get("Server", [])
            if item["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        ]

    def allows(self, call: Call) -> bool:
        servers = [item for item in self.servers if item["spec"]["port"] == call.port]
        if not servers:
            return False
        name = servers[0]["metadata"]["name"]
        targets = {("Server", name)}
        routes = [
            item
            for item in self.by_kind.get("HTTPRoute", [])
            if any(parent["name"] == name for parent in item["spec"]["parentRefs"])
        ]
        if routes and call.protocol != "tcp":
            fitting = [
                (rank, place, item["metadata"]["name"])
                for place, item in enumerate(routes)
                for rule in item["spec"]["rules"]
                for match in rule["matches"]
                if (rank := rank_of(match, call)) is not None
            ]
            if not fitting:
                return False  # 404
            targets.add(("HTTPRoute", max(fitting, key=lambda found: (found[0], -found[1]))[2]))
        return any(
            (item["spec"]["targetRef"]["kind"], item["spec"]["targetRef"]["name"]) in targets
            and all(self.authenticates(ref["name"], call) for ref in item["spec"]["requiredAuthenticationRefs"])
            for item in self.by_kind.get("AuthorizationPolicy", [])
        )

    def authenticates(self, name, call) -> bool:
        found = identity(call.caller)
        if found is None or found[0] != self.domain:
            return False  # not of this mesh
        (item,) = (item for item in self.by_kind["MeshTLSAuthentication"] if item["metadata"]["name"] == name)
        text = f"{found[2]}.{found[1]}.serviceaccount.identity.linkerd.{self.domain}"
        for pattern in item["spec"].get("identities", []):
            if pattern in {"*", text} or (pattern.startswith("*.") and text.endswith(pattern[1:])):
                return True
        return any(
            ref["name"] == (found[1] if ref["kind"] == "Namespace" else found[2])
            and (ref["kind"] == "Namespace" or ref["namespace"] == found[1])
            for ref in item["spec"].get("identityRefs", [])
        )


def rank_of(match, call: Call):
    """How specific a match is (Gateway API, HTTPRouteRule), None when it does not fit."""
    path, (kind, value) = call.path.partition("?")[0], (match["path"]["type"], match["path"]["value"])
    if kind == "Exact" and path != value:
        return None
    if kind == "PathPrefix" and not (path == value or path.startswith(value.rstrip("/") + "/")):
        return None
    if "method" in match and match["method"] != call.method:
        return None
    headers = {name.lower(): value for name, value in call.headers}
    if any(headers.get(test["name"].lower()) != test["value"] for test in match.get("headers", [])):
        return None
    return (kind == "Exact", len(value), "method" in match, len(match.get("headers", [])))
