"""Istio's documented semantics, slow and obvious: what a sidecar allows.

From the reference pages of AuthorizationPolicy, PeerAuthentication and RequestAuthentication: CUSTOM, then DENY, then
ALLOW; without an ALLOW everything; `from` and `to` ORed lists, `when` ANDed; exact, prefix, suffix and presence values;
path templates; HTTP fields on TCP make an ALLOW rule void and fall out of a DENY rule.
"""

from __future__ import annotations

import ipaddress
import re

from tests.policyengine.targets.wire import Call

HTTP_FIELDS = {"requestPrincipals", "remoteIpBlocks", "hosts", "methods", "paths"}


def fits(pattern: str, value: str | None) -> bool:
    if value is None or value == "":
        return False
    if pattern == "*":
        return True
    if pattern.startswith("*"):
        return value.endswith(pattern[1:])
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    return value == pattern


def path_fits(pattern: str, value: str) -> bool:
    path = value.partition("?")[0]
    if "{*}" in pattern or "{**}" in pattern:
        parts = re.split(r"(\{\*\*?\})", pattern)
        text = "".join({"{*}": "[^/]+", "{**}": ".*"}.get(part) or re.escape(part) for part in parts)
        return re.fullmatch(text, path) is not None
    return fits(pattern, path)


def in_blocks(blocks: list[str], address: str) -> bool:
    found = ipaddress.ip_address(address)
    networks = [ipaddress.ip_network(block, strict=False) for block in blocks]
    return any(found.version == network.version and found in network for network in networks)


class Sidecar:
    """One workload with the policies that select it."""

    def __init__(self, documents, namespace, labels, *, domain, root="istio-system", external=False):
        self.domain, self.external = domain, external
        self.mine = [
            item
            for item in documents
            if item["metadata"].get("namespace", "default") in {namespace, root}
            and (item.get("spec") or {}).get("selector", {}).get("matchLabels", {}).items() <= labels.items()
        ]
        self.namespace, self.root = namespace, root

    def of(self, kind):
        return [item for item in self.mine if item["kind"] == kind]

    def is_strict(self):
        found = sorted(
            self.of("PeerAuthentication"),
            key=lambda item: (
                2 if item["spec"].get("selector") else 1 if item["metadata"].get("namespace") == self.namespace else 0
            ),
        )
        return bool(found) and found[-1]["spec"].get("mtls", {}).get("mode") == "STRICT"

    def issuers(self):
        return {
            rule["issuer"]
            for item in self.of("RequestAuthentication")
            for rule in (item.get("spec") or {}).get("jwtRules", [])
        }

    def allows(self, call: Call) -> bool:
        if call.caller is None and self.is_strict():
            return False
        claims = dict(call.claims) if call.claims is not None and call.protocol != "tcp" else None
        if self.issuers() and claims is not None and claims.get("iss") not in self.issuers():
            return False  # 401: the issuer is not configured
        if not self.issuers():
            claims = None
        by_action = {"CUSTOM": [], "DENY": [], "ALLOW": []}
        for item in self.of("AuthorizationPolicy"):
            spec = item.get("spec") or {}
            action = spec.get("action", "ALLOW")
            if action in by_action:
                by_action[action].append((item, spec.get("rules") or []))
        asked = any(
            self.rule(item, rule, call, claims, "CUSTOM") for item, rules in by_action["CUSTOM"] for rule in rules
        )
        if asked and not self.external:
            return False
        if any(self.rule(item, rule, call, claims, "DENY") for item, rules in by_action["DENY"] for rule in rules):
            return False
        if not by_action["ALLOW"]:
            return True
        return any(self.rule(item, rule, call, claims, "ALLOW") for item, rules in by_action["ALLOW"] for rule in rules)

    def rule(self, item, rule, call, claims, action) -> bool:
        rule = rule or {}
        tcp = call.protocol == "tcp"
        namespace = item["metadata"].get("namespace", "default")

        def part(fields) -> dict | None:
            http = {k for k in fields if k in HTTP_FIELDS or (k[3:4].lower() + k[4:] in HTTP_FIELDS and k[:3] == "not")}
            if tcp and http:
                return {k: v for k, v in fields.items() if k not in http} if action != "ALLOW" else None
            return fields

        sources = [part(entry["source"]) for entry in rule.get("from") or []]
        operations = [part(entry["operation"]) for entry in rule.get("to") or []]
        if rule.get("from") and not any(s is not None and self.source(s, call, claims, namespace) for s in sources):
            return False
        if rule.get("to") and not any(o is not None and self.operation(o, call) for o in operations):
            return False
        for condition in rule.get("when") or []:
            if tcp and condition["key"].startswith(("request.", "remote.ip")):
                if action == "ALLOW":
                    return False
                continue
            if not self.condition(condition, call, claims, namespace):
                return False
        return True

    def principal(self, pattern, call):
        text = pattern
        if text.startswith("cluster.local/"):
            text = self.domain + text.removeprefix("cluster.local")
        return fits(text, call.caller.removeprefix("spiffe://") if call.caller else None)

    def in_namespace(self, pattern, call):
        found = re.search(r"/ns/([^/]+)/", call.caller or "")
        return found is not None and fits(pattern, found[1])

    def account(self, pattern, call, namespace):
        first, slash, rest = pattern.partition("/")
        wanted = f"/ns/{first}/sa/{rest}" if slash else f"/ns/{namespace}/sa/{first}"
        return call.caller is not None and call.caller.endswith(wanted)

    def request_principal(self, pattern, claims):
        return fits(pattern, f"{claims['iss']}/{claims['sub']}" if claims and "sub" in claims else None)

    def source(self, source, call, claims, namespace) -> bool:
        remote = call.forwarded_ip or call.peer_ip
        tests = {
            "principals": lambda v: self.principal(v, call),
            "namespaces": lambda v: self.in_namespace(v, call),
            "serviceAccounts": lambda v: self.account(v, call, namespace),
            "requestPrincipals": lambda v: self.request_principal(v, claims),
            "ipBlocks": lambda v: in_blocks([v], call.peer_ip),
            "remoteIpBlocks": lambda v: in_blocks([v], remote),
        }
        return every(source, tests)

    def operation(self, operation, call) -> bool:
        tests = {
            "ports": lambda v: str(call.port) == v,
            "methods": lambda v: fits(v, call.method),
            "hosts": lambda v: fits(v.lower(), call.host.lower()),
            "paths": lambda v: path_fits(v, call.path),
        }
        return every(operation, tests)

    def condition(self, condition, call, claims, namespace) -> bool:
        key = condition["key"]
        inner = key.partition("[")[2].rstrip("]")
        if key.startswith("request.headers["):
            found = [v for k, v in call.headers if k.lower() == inner.lower()]
            test = lambda v: any(fits(v, one) for one in found)  # noqa: E731
        elif key.startswith("request.auth.claims["):
            value = (claims or {}).get(inner)
            values = value if isinstance(value, list) else [value]
            test = lambda v: any(isinstance(one, str) and fits(v, one) for one in values)  # noqa: E731
        elif key == "request.auth.principal":
            test = lambda v: self.request_principal(v, claims)  # noqa: E731
        elif key == "source.ip":
            test = lambda v: in_blocks([v], call.peer_ip)  # noqa: E731
        elif key == "source.namespace":
            test = lambda v: self.in_namespace(v, call)  # noqa: E731
        elif key == "source.principal":
            test = lambda v: self.principal(v, call)  # noqa: E731
        elif key == "destination.port":
            test = lambda v: v == str(call.port)  # noqa: E731
        else:
            raise AssertionError(key)
        return every({"x": condition.get("values"), "notX": condition.get("notValues")}, {"x": test})


def every(fields, tests) -> bool:
    """EVERY field has ANY of its values, and NONE of those it leaves out."""
    for name, test in tests.items():
        values, nots = fields.get(name), fields.get(f"not{name[0].upper()}{name[1:]}")
        if values and not any(test(value) for value in values):
            return False
        if nots and any(test(value) for value in nots):
            return False
    return True
