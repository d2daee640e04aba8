"""The catalogue of request bypasses, A01 to A27: each attack as its bytes on the wire, with its verdict.

`web` may GET and POST below `/api` on `db.corp.test`, and everybody but `ops` is denied `/admin` and what is below it.
The open service allows `web` every path instead, so that nothing but the deny stands in the way. Whoever enforces is
held to the same table: the evaluators, the reading of bytes, whole sidecars.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

WEB, OPS, DB = (f"spiffe://corp.test/ns/{path}" for path in ("shop/sa/web", "ops/sa/admin", "shop/sa/db"))
HOST = b"Host: db.corp.test"
Verdict = Literal["allow", "deny"]
Service = Literal["closed", "open", "caseless"]


@dataclasses.dataclass(frozen=True)
class Bypass:
    """One attack: request line and field lines as bytes; ``services`` are those where it has its verdict."""

    name: str
    line: bytes
    verdict: Verdict = "deny"
    fields: tuple[bytes, ...] = ()
    host: bytes | None = HOST
    services: tuple[Service, ...] = ("closed", "open")
    ending: bytes = b"\r\n"

    @property
    def raw(self) -> bytes:
        """The bytes of the request."""
        lines = [self.line, *([] if self.host is None else [self.host]), *self.fields, b"", b""]
        return self.ending.join(lines)


def get(name: str, target: bytes, verdict: Verdict = "deny", **more: Any) -> Bypass:
    return Bypass(name, b"GET %b HTTP/1.1" % target, verdict, **more)


def with_fields(name: str, target: bytes, *fields: bytes, verdict: Verdict = "deny", method: bytes = b"GET") -> Bypass:
    return Bypass(name, b"%b %b HTTP/1.1" % (method, target), verdict, fields=fields)


CLOSED: tuple[Service, ...] = ("closed",)
CASELESS: tuple[Service, ...] = ("caseless",)

BYPASSES = [
    get("A01-parent", b"/x/../admin"),
    get("A01-dot", b"/./admin"),
    get("A01-encoded-dots", b"/api/%2e%2e/admin"),
    get("A02-two-slashes", b"//admin"),
    get("A02-three-slashes", b"///admin"),
    get("A02-slashes-then-parent", b"/api//../admin"),
    get("A03-encoded-letter", b"/%61dmin"),
    get("A04-query", b"/admin?x"),
    get("A04-empty-query", b"/admin?"),
    get("A04-dots-in-query", b"/api/ok?/../admin", "allow"),
    get("A05-encoded-slash", b"/admin%2f"),
    get("A05-encoded-backslash", b"/admin%5c"),
    get("A05-encoded-slashes", b"/api%2f..%2fadmin"),
    get("A05-backslash", b"/\\admin"),
    get("A06-letter-encoded-twice", b"/%2561dmin"),
    get("A06-dots-encoded-twice", b"/api/%252e%252e/admin"),
    get("A07-fragment", b"/admin#x"),
    get("A07-fragment-of-what-is-allowed", b"/api/ok#/admin"),
    get("A08-parameter", b"/admin;x=1"),
    get("A08-parameter-slash", b"/admin;/x"),
    get("A08-empty-parameter", b"/;/admin"),
    get("A08-dots-parameter", b"/x/..;/admin"),
    get("A08-encoded-dots-parameter", b"/x/%2e%2e;/admin"),
    get("A09-star", b"/admin/*"),
    get("A09-encoded-star", b"/admin/%2a"),
    get("A10-no-slash", b"admin"),
    get("A10-empty", b""),
    get("A10-asterisk", b"*"),
    get("A10-absolute", b"http://x/admin"),
    get("A10-two-targets", b"/api/ok /admin"),
    get("A11-host-in-upper-case", b"/api/ok", "allow", host=b"Host: DB.Corp.TEST"),
    get("A11-host-with-port", b"/api/ok", "allow", host=b"Host: db.corp.test:8443"),
    get("A11-host-with-final-dot", b"/api/ok", "allow", host=b"Host: db.corp.test."),
    get("A11-another-host", b"/api/ok", host=b"Host: evil.test", services=CLOSED),
    get("A11-ipv6", b"/api/ok", host=b"Host: [::1]:80", services=CLOSED),
    get("A11-punycode", b"/api/ok", host=b"Host: xn--db-corp-9za.test", services=CLOSED),
    get("A12-two-hosts", b"/api/ok", fields=(b"Host: evil.test",)),
    get("A12-two-equal-hosts", b"/api/ok", fields=(HOST,)),
    get("A12-joined-hosts", b"/api/ok", host=b"Host: db.corp.test, evil.test"),
    get("A12-absolute-form", b"http://evil.test/api/ok"),
    get("A12-no-host", b"/api/ok", host=None),
    get("A13-first-letter", b"/Admin", services=CASELESS),
    get("A13-all-letters", b"/ADMIN/x", services=CASELESS),
    get("A13-encoded-letter", b"/%41dmin", services=CASELESS),
    get("A13-letter-that-some-fold-to-ascii", b"/adm%C4%B1n", services=CASELESS),
    get("A13-what-is-allowed-in-any-case", b"/Api/OK", "allow", services=CASELESS),
    get("A13-case-matters-unless-declared", b"/API/ok", services=CLOSED),
    get("A14-trailing-space", b"/admin%20"),
    get("A14-trailing-tab", b"/admin%09"),
    get("A14-trailing-dots", b"/admin.."),
    get("A14-nul", b"/admin%00"),
    get("A14-encoded-semicolon", b"/admin%3bx"),
    get("A14-encoded-question-mark", b"/admin%3fx"),
    get("A14-overlong", b"/%c0%afadmin"),
    get("A14-raw-byte", b"/\xefadmin"),
    with_fields("A15-denied-value-last", b"/api/deny", b"x-role: user", b"x-role: admin"),
    with_fields("A15-denied-value-first", b"/api/deny", b"x-role: admin", b"x-role: user"),
    with_fields("A15-allowed-value-last", b"/role", b"x-role: admin", b"x-role: user"),
    with_fields("A15-allowed-value-first", b"/role", b"x-role: user", b"X-Role: admin"),
    with_fields("A15-single-value", b"/role", b"x-role: user", verdict="allow"),
    with_fields("A16-list", b"/api/deny", b"x-role: user,admin"),
    with_fields("A16-list-with-space", b"/role", b"x-role: admin, user"),
    with_fields("A16-upper-case", b"/role", b"x-role: ADMIN"),
    with_fields("A16-underscore", b"/api/deny", b"x_role: admin"),
    with_fields("A17-folded-field", b"/api/ok", b"x-role: user", b" admin"),
    get("A17-bare-line-feed", b"/api/ok", ending=b"\n"),
    with_fields("A18-original-path", b"/admin", b"x-envoy-original-path: /api/ok"),
    with_fields("A18-identity", b"/admin", b"x-forwarded-client-cert: URI=" + OPS.encode(), b"x-limen-source: ops"),
    with_fields("A18-forwarded-address", b"/near", b"x-forwarded-for: 10.0.0.1"),
    with_fields("A18-what-is-not-used", b"/api/ok", b"x-envoy-original-path: /admin", verdict="allow"),
    Bypass("A19-lower-case-method", b"get /api/ok HTTP/1.1"),
    Bypass("A19-mixed-case-method", b"Get /api/ok HTTP/1.1"),
    Bypass("A19-unknown-method", b"ADMIN /api/ok HTTP/1.1"),
    Bypass("A19-two-spaces", b"GET  /api/ok HTTP/1.1"),
    Bypass("A19-other-method", b"DELETE /api/ok HTTP/1.1"),
    with_fields("A19-override-to-an-allowed-one", b"/api/ok", b"X-HTTP-Method-Override: GET", method=b"DELETE"),
    with_fields("A20-obs-text", b"/role", b"x-role: user\xff"),
    with_fields("A20-obs-text-alone", b"/role", b"x-role: \xff"),
    with_fields("A21-bytes-for-an-authorizer", b"/custom", b"x-any: \xc3\x28\xff"),
    get("A22-no-authorizer-for-an-allow", b"/custom"),
    get("A22-no-authorizer-for-a-deny", b"/api/custom-deny"),
    with_fields("A23-length-and-chunks", b"/api/ok", b"Content-Length: 4", b"Transfer-Encoding: chunked"),
    with_fields("A23-two-lengths", b"/api/ok", b"Content-Length: 1", b"Content-Length: 1", method=b"POST"),
    with_fields("A23-unknown-coding", b"/api/ok", b"Transfer-Encoding: xchunked", method=b"POST"),
    Bypass("A24-connect", b"CONNECT db.corp.test:443 HTTP/1.1"),
    with_fields("A24-websocket", b"/api/ok", b"Connection: upgrade", b"Upgrade: websocket"),
    with_fields("A24-h2c", b"/api/ok", b"Connection: upgrade, http2-settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"),
    Bypass("A24-http-1.0", b"GET /api/ok HTTP/1.0"),
    get("A25-other-method", b"/pkg.Svc/method", services=CLOSED),
    get("A25-slashes-before-a-denied-service", b"//admin/Method"),
    get("A25-trailing-slash", b"/pkg.Svc/Method/", services=CLOSED),
    get("A25-reflection", b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", services=CLOSED),
    with_fields("A26-grpc-web", b"/admin", b"Content-Type: application/grpc-web+proto", method=b"POST"),
    with_fields("A26-connect-json", b"/admin", b"Content-Type: application/json", method=b"POST"),
    with_fields("A26-connect-version", b"/admin?connect=v1&encoding=json", b"Connect-Protocol-Version: 1"),
    with_fields("A26-what-is-allowed", b"/api/ok", b"Content-Type: application/json", verdict="allow"),
    get("A27-query", b"/api/ok?a=1&b=/admin", "allow"),
    get("A27-method-in-query", b"/admin?_method=GET"),
    get("A27-path-in-query", b"/admin?path=/api/ok"),
]  # fmt: skip


def policies(service: Service, port: int = 8080) -> dict[str, object]:
    """The policies of one of the services, as a snapshot has them."""
    everywhere = ["/**"] if service == "open" else ["/api/**", "/pkg.Svc/Method"]
    hosts = {} if service == "open" else {"hosts": ["db.corp.test"]}
    methods = {"methods": ["GET", "POST"]}
    role = {"headers": {"x-role": ["admin"]}}
    special = ["/role", "/custom", "/near"]
    rules: list[dict[str, object]] = [
        {"id": "api", "effect": "allow", "to": [{"paths": everywhere, **methods, **hosts}]},
        {"id": "admin", "effect": "deny", "from": ["any"], "unless": {"from": [OPS]},
         "to": [{"ports": [port], "paths": ["/admin", "/admin/**"]}]},
        {"id": "role", "effect": "allow", "to": [{"paths": ["/role"]}], "when": {"headers": {"x-role": ["user"]}}},
        {"id": "no-role", "effect": "deny", "to": [{"ports": [port], "paths": ["/api/deny"]}], "when": role},
        {"id": "near", "effect": "allow", "to": [{"paths": ["/near"]}], "when": {"peer_ip": ["10.0.0.0/8"]}},
        {"id": "custom", "effect": "allow", "to": [{"paths": ["/custom"]}], "when": {"rego": "data.shop.extra"}},
        {"id": "no-custom", "effect": "deny", "to": [{"ports": [port], "paths": ["/api/custom-deny"]}],
         "when": {"rego": "data.shop.extra"}},
    ]  # fmt: skip
    if service == "open":
        # what has a rule of its own is not allowed by the rule for everything
        narrow: dict[str, object] = {"id": "special", "effect": "pass", "to": [{"ports": [port], "paths": special}]}
        rules = [*rules[:2], rules[3], rules[6], narrow]
        others = [dict(rule) for rule in policies("closed", port)["policies"][0]["rules"]]  # type: ignore[index]
        baseline = [rule for rule in others if rule["id"] in {"role", "near", "custom"}]
    else:
        baseline = []
    tiers = {"app": [{"from": [WEB], **rule} for rule in rules], "baseline": baseline}
    found: dict[str, object] = {"name": "db", "owner": "", "identities": [DB]}
    found["ports"] = [{"port": port, "protocol": "http"}]
    if service == "caseless":
        found["path_case"] = "insensitive"
    return {
        "schema": 1,
        "services": [found],
        "policies": [
            {"name": f"{tier}-db", "owner": "", "service": "db", "tier": tier, "rules": rows}
            for tier, rows in tiers.items()
            if rows
        ],
        "groups": [],
        "invariants": [],
        "exceptions": [],
    }


def cases() -> list[tuple[Bypass, Service]]:
    """Every attack on every service where it has its verdict."""
    return [(bypass, service) for bypass in BYPASSES for service in bypass.services]


def case_id(case: tuple[Bypass, Service]) -> str:
    """The pytest id of a case: it begins with the number of the attack."""
    return f"{case[0].name}-{case[1]}"
