"""Consul's intentions: one controls a pair, the exact source's before that of `*`; the first permission decides."""

from __future__ import annotations

import re

from tests.policyengine.targets.wire import Call


class Intentions:
    """The sources of one called service. ``names`` are service names by SPIFFE ID; ``default`` is the ACL default."""

    def __init__(self, sources, names, domain="corp.test", *, default=False):
        self.sources, self.names, self.domain, self.default = sources, names, domain, default

    def allows(self, call: Call) -> bool:
        if call.caller is None or not call.caller.startswith(f"spiffe://{self.domain}/"):
            return False
        name = self.names.get(call.caller)
        exact = [source for source in self.sources if source["Name"] == name and name is not None]
        found = exact or [source for source in self.sources if source["Name"] == "*"]
        if not found:
            return self.default
        (source,) = found
        if "Action" in source:
            return source["Action"] == "allow"
        if call.protocol == "tcp":
            return False
        for permission in source["Permissions"]:
            if fits(permission.get("HTTP", {}), call):
                return permission["Action"] == "allow"
        return self.default


def fits(http, call: Call) -> bool:
    path = call.path.partition("?")[0]
    if "PathExact" in http and path != http["PathExact"]:
        return False
    if "PathPrefix" in http and not path.startswith(http["PathPrefix"]):
        return False
    if "PathRegex" in http and re.fullmatch(http["PathRegex"], path) is None:
        return False
    if http.get("Methods") and call.method not in http["Methods"]:
        return False
    headers = {name.lower(): value for name, value in call.headers}
    for test in http.get("Header", []):
        value = headers.get(test["Name"].lower())
        holds = {
            "Exact": value == test.get("Exact"),
            "Prefix": value is not None and value.startswith(test.get("Prefix", "")),
            "Present": value is not None,
        }
        (kind,) = set(test) & set(holds)
        if holds[kind] == bool(test.get("Invert")):
            return False
    return True
