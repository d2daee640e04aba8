"""Every corner of design D3 as a named case; the reference and the index are held to the same table."""

# ruff: noqa: E501  a table reads best with one case a line

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from mesh.request import Request
from policyengine.model import PolicySet, policy_set_from_json

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
TD = "spiffe://corp.test"
CART, WEB, ADMIN = f"{TD}/ns/shop/sa/cart", f"{TD}/ns/shop/sa/web", f"{TD}/ns/ops/sa/admin"
IDP = "https://idp.test"


def tree(
    *,
    guardrail: list[dict[str, Any]] | None = None,
    app: list[dict[str, Any]] | None = None,
    baseline: list[dict[str, Any]] | None = None,
    groups: dict[str, list[str]] | None = None,
    exceptions: list[dict[str, Any]] | None = None,
    ports: list[tuple[int, str]] | None = None,
    observe: str | None = None,
    path_case: str | None = None,
) -> PolicySet:
    """A policy set with the service `db`, read as a snapshot would be."""
    db: dict[str, Any] = {
        "name": "db",
        "owner": "data",
        "identities": [f"{TD}/ns/shop/sa/db"],
        "ports": [{"port": port, "protocol": protocol} for port, protocol in ports or [(8080, "http")]],
    }
    if path_case is not None:
        db["path_case"] = path_case
    if observe is not None:
        db.update(mode="observe", until=observe)
    tiers = {"guardrail": guardrail, "app": app, "baseline": baseline}
    return policy_set_from_json(
        {
            "schema": 1,
            "services": [
                db,
                {"name": "web", "owner": "", "identities": [WEB], "ports": [{"port": 80, "protocol": "http"}]},
            ],
            "policies": [
                {
                    "name": f"{tier}-db",
                    "owner": "",
                    "service": "db",
                    "tier": tier,
                    "rules": [{"id": f"r{place}", "from": ["any"], **rule} for place, rule in enumerate(rules)],
                }
                for tier, rules in tiers.items()
                if rules
            ],
            "groups": [{"name": name, "owner": "", "members": members} for name, members in (groups or {}).items()],
            "invariants": [],
            "exceptions": exceptions or [],
        }
    )


def ask(**fields: Any) -> Request:
    """A plain request from cart."""
    plain: dict[str, Any] = {
        "service": "db",
        "port": 8080,
        "protocol": "http",
        "source": CART,
        "method": "GET",
        "host": "db.corp.test",
        "path": "/orders",
        "peer_ip": "10.1.2.3",
        "time": NOW,
    }
    return Request(**{**plain, **fields})


@dataclasses.dataclass(frozen=True)
class Corner:
    """One case: what decides is `tier/rule`, or a code where no rule does."""

    name: str
    policies: PolicySet
    request: Request
    effect: str
    by: str


def allow(**fields: Any) -> dict[str, Any]:
    return {"effect": "allow", **fields}


def deny(**fields: Any) -> dict[str, Any]:
    return {"effect": "deny", **fields}


def go_on(**fields: Any) -> dict[str, Any]:
    return {"effect": "pass", **fields}


FUTURE, PAST = "2026-12-01T00:00:00Z", "2026-11-01T00:00:00Z"
ROLE_ADMIN = {"headers": {"x-role": ["admin"]}}
CLAIM_ADMIN = {"claims": {"issuer": IDP, "roles": ["admin"]}}
DEFAULT, AMBIGUOUS, NOBODY, UNDECLARED = "LM2302", "LM2304", "LM2303", "LM2306"


def grant(until: str, **fields: Any) -> dict[str, Any]:
    rule = {"from": [CART], "service": "db", **fields}
    return {"name": "fire", "owner": "", "rule": rule, "until": until, "reason": "incident"}


def token(**claims: object) -> dict[str, object]:
    return {"iss": IDP, **claims}


CORNERS = [
    # tiers
    Corner("no-rule-denies", tree(), ask(), "deny", DEFAULT),
    Corner("allow-of-any-tier-allows", tree(baseline=[allow()]), ask(), "allow", "baseline/r0"),
    Corner("deny-beats-pass-and-allow", tree(app=[allow(), go_on(), deny()]), ask(), "deny", "app/r2"),
    Corner("pass-beats-allow", tree(app=[allow(), go_on()]), ask(), "deny", DEFAULT),
    Corner("pass-goes-on-to-next-tier", tree(guardrail=[go_on(), allow()], app=[allow()]), ask(), "allow", "app/r0"),
    Corner("guardrail-allow-ends-it", tree(guardrail=[allow()], app=[deny()]), ask(), "allow", "guardrail/r0"),
    Corner("guardrail-deny-ends-it", tree(guardrail=[deny()], app=[allow()]), ask(), "deny", "guardrail/r0"),
    Corner("app-allow-never-reaches-baseline-deny", tree(app=[allow()], baseline=[deny()]), ask(), "allow", "app/r0"),
    Corner("no-match-goes-on", tree(guardrail=[deny(**{"from": [WEB]})], baseline=[allow()]), ask(), "allow", "baseline/r0"),
    Corner("baseline-pass-is-default-deny", tree(baseline=[go_on(), allow()]), ask(), "deny", DEFAULT),
    # exceptions
    Corner("exception-allows-before-its-end", tree(exceptions=[grant(FUTURE)]), ask(), "allow", "app/exception"),
    Corner("exception-ends", tree(exceptions=[grant(PAST)]), ask(), "deny", DEFAULT),
    Corner("exception-ends-at-its-moment", tree(exceptions=[grant("2026-11-24T12:00:00Z")]), ask(), "deny", DEFAULT),
    Corner("exception-ends-when-time-is-unknown", tree(exceptions=[grant(FUTURE)]), ask(time=None), "deny", DEFAULT),
    Corner("exception-stays-below-guardrail", tree(guardrail=[deny()], exceptions=[grant(FUTURE)]), ask(), "deny", "guardrail/r0"),
    Corner("exception-loses-to-app-deny", tree(app=[deny()], exceptions=[grant(FUTURE)]), ask(), "deny", "app/r0"),
    Corner("exception-is-for-its-callers", tree(exceptions=[grant(FUTURE)]), ask(source=WEB), "deny", DEFAULT),
    # callers
    Corner("exact-caller", tree(app=[allow(**{"from": [CART]})]), ask(), "allow", "app/r0"),
    Corner("other-caller", tree(app=[allow(**{"from": [CART]})]), ask(source=WEB), "deny", DEFAULT),
    Corner("A34-prefix-at-segment-boundary", tree(app=[allow(**{"from": [f"{TD}/ns/shop/**"]})]), ask(source=f"{TD}/ns/shop-evil/sa/x"), "deny", DEFAULT),
    Corner("prefix-needs-a-further-segment", tree(app=[allow(**{"from": [f"{TD}/ns/shop/**"]})]), ask(source=f"{TD}/ns/shop"), "deny", DEFAULT),
    Corner("A34-path-injection", tree(app=[allow(**{"from": [f"{TD}/ns/shop/**"]})]), ask(source=f"{TD}/foo/ns/shop/sa/x"), "deny", DEFAULT),
    Corner("A34-other-trust-domain", tree(app=[allow(**{"from": [f"{TD}/**"]})]), ask(source="spiffe://other.test/ns/shop/sa/cart"), "deny", DEFAULT),
    Corner("A32-comma-in-identity", tree(app=[allow(**{"from": [f"{TD}/**"]})]), ask(source=f"{CART},{ADMIN}"), "deny", NOBODY),
    Corner("A33-upper-case-trust-domain", tree(app=[allow()]), ask(source="spiffe://CORP.test/ns/shop/sa/cart"), "deny", NOBODY),
    Corner("A33-trailing-slash", tree(app=[allow()]), ask(source=f"{CART}/"), "deny", NOBODY),
    Corner("A33-http-scheme", tree(app=[allow()]), ask(source="http://corp.test/ns/shop/sa/cart"), "deny", NOBODY),
    Corner("bare-trust-domain-is-nobody", tree(app=[allow()]), ask(source=TD), "deny", NOBODY),
    Corner("group", tree(app=[allow(**{"from": ["group:g"]})], groups={"g": ["group:h"], "h": [CART]}), ask(), "allow", "app/r0"),
    Corner("service-as-caller", tree(app=[allow(**{"from": ["service:web"]})]), ask(source=WEB), "allow", "app/r0"),
    Corner("null-source-matches-no-allow", tree(app=[allow()]), ask(source=None), "deny", NOBODY),
    Corner("null-source-matches-every-deny", tree(app=[deny(**{"from": [WEB]}), allow()]), ask(source=None), "deny", "app/r0"),
    Corner("null-source-is-in-no-unless", tree(app=[deny(unless={"from": ["any"]})]), ask(source=None), "deny", "app/r0"),
    Corner("null-source-is-denied-in-observe", tree(observe=FUTURE), ask(source=None), "deny", NOBODY),
    Corner("null-source-denied-by-app-rule-in-observe", tree(app=[deny()], observe=FUTURE), ask(source=None), "deny", "app/r0"),
    Corner("unknown-source-is-nobody", tree(app=[allow()]), ask(unknown=frozenset({"source"})), "deny", NOBODY),
    # unless
    Corner("deny-unless-true", tree(app=[allow(), deny(unless={"from": [CART]})]), ask(), "allow", "app/r0"),
    Corner("deny-unless-false", tree(app=[allow(), deny(unless={"from": [ADMIN]})]), ask(), "deny", "app/r1"),
    Corner("deny-unless-unknown-still-denies", tree(app=[allow(), deny(unless={"when": CLAIM_ADMIN})]), ask(unknown=frozenset({"claims"})), "deny", "app/r1"),
    Corner("deny-unless-absent-denies", tree(app=[allow(), deny(unless={"when": CLAIM_ADMIN})]), ask(), "deny", "app/r1"),
    Corner("allow-unless-true", tree(app=[allow(unless={"from": [CART]})]), ask(), "deny", DEFAULT),
    Corner("allow-unless-false", tree(app=[allow(unless={"from": [ADMIN]})]), ask(), "allow", "app/r0"),
    Corner("allow-unless-absent-allows", tree(app=[allow(unless={"when": ROLE_ADMIN})]), ask(), "allow", "app/r0"),
    Corner("allow-unless-unknown-does-not-allow", tree(app=[allow(unless={"when": ROLE_ADMIN})]), ask(unknown=frozenset({"headers.x-role"})), "deny", DEFAULT),
    Corner("unless-fields-are-anded", tree(app=[allow(), deny(unless={"from": [CART], "when": ROLE_ADMIN})]), ask(), "deny", "app/r1"),
    Corner("pass-unless-unknown-passes", tree(app=[allow(), go_on(unless={"when": CLAIM_ADMIN})]), ask(unknown=frozenset({"claims"})), "deny", DEFAULT),
    # absent and unknown
    Corner("absent-header-is-false-in-allow", tree(app=[allow(when=ROLE_ADMIN)]), ask(), "deny", DEFAULT),
    Corner("absent-header-is-false-in-deny", tree(app=[allow(), deny(when=ROLE_ADMIN)]), ask(), "allow", "app/r0"),
    Corner("absent-token-is-false-in-deny", tree(app=[allow(), deny(when=CLAIM_ADMIN)]), ask(), "allow", "app/r0"),
    Corner("unknown-claims-in-allow", tree(app=[allow(when=CLAIM_ADMIN)]), ask(unknown=frozenset({"claims"})), "deny", DEFAULT),
    Corner("unknown-claims-in-deny", tree(app=[allow(), deny(when=CLAIM_ADMIN)]), ask(unknown=frozenset({"claims"})), "deny", "app/r1"),
    Corner("unknown-claims-in-pass", tree(app=[allow(), go_on(when=CLAIM_ADMIN)]), ask(unknown=frozenset({"claims"})), "deny", DEFAULT),
    Corner("unknown-is-anded-with-false", tree(app=[allow(), deny(when={**CLAIM_ADMIN, **ROLE_ADMIN})]), ask(unknown=frozenset({"claims"})), "allow", "app/r0"),
    Corner("malformed-method-is-unknown", tree(app=[allow(), deny(to=[{"methods": ["POST"]}])]), ask(method="GET "), "deny", "app/r1"),
    Corner("A19-lower-case-method-is-another", tree(app=[allow(to=[{"methods": ["GET"]}])]), ask(method="get"), "deny", DEFAULT),
    Corner("malformed-host-is-unknown", tree(app=[allow(), deny(to=[{"hosts": ["a.test"]}])]), ask(host="b c"), "deny", "app/r1"),
    Corner("absent-host-is-false", tree(app=[allow(), deny(to=[{"hosts": ["a.test"]}])]), ask(host=None), "allow", "app/r0"),
    Corner("peer-address-that-is-not-given-is-unknown", tree(app=[allow(), deny(when={"peer_ip": ["192.0.2.0/24"]})]), ask(peer_ip=None), "deny", "app/r1"),
    Corner("malformed-peer-address-is-unknown", tree(app=[allow(when={"peer_ip": ["0.0.0.0/0"]})]), ask(peer_ip="ten"), "deny", DEFAULT),
    Corner("rego-never-allows", tree(app=[allow(when={"rego": "data.shop.x"})]), ask(), "deny", DEFAULT),
    Corner("rego-always-denies", tree(app=[allow(), deny(when={"rego": "data.shop.x"})]), ask(), "deny", "app/r1"),
    # operations
    Corner("fields-of-to-are-anded", tree(app=[allow(to=[{"methods": ["GET"], "paths": ["/x"]}])]), ask(), "deny", DEFAULT),
    Corner("entries-of-to-are-ored", tree(app=[allow(to=[{"paths": ["/x"]}, {"paths": ["/orders"]}])]), ask(), "allow", "app/r0"),
    Corner("A01-path-is-canonical", tree(app=[allow(), deny(to=[{"paths": ["/admin", "/admin/**"]}])]), ask(path="/x/%2e%2e/admin"), "deny", "app/r1"),
    Corner("A13-case-matters", tree(app=[allow(to=[{"paths": ["/orders"]}])]), ask(path="/Orders"), "deny", DEFAULT),
    Corner("A13-case-is-ignored-in-an-allow", tree(app=[allow(to=[{"paths": ["/Orders/**"]}])], path_case="insensitive"), ask(path="/oRDERS/%41"), "allow", "app/r0"),
    Corner("A13-case-is-ignored-in-a-deny", tree(app=[allow(), deny(to=[{"paths": ["/admin"]}])], path_case="insensitive"), ask(path="/ADMIN"), "deny", "app/r1"),
    Corner("A13-case-is-ignored-outside-of-ascii", tree(app=[allow(to=[{"paths": ["/É/{x:int}"]}])], path_case="insensitive"), ask(path="/%C3%A9/1"), "allow", "app/r0"),
    Corner("A13-case-is-ignored-in-an-exception", tree(exceptions=[grant(FUTURE, to=[{"paths": ["/Orders"]}])], path_case="insensitive"), ask(path="/ORDERS"), "allow", "app/exception"),
    Corner("A13-kelvin-sign-is-ambiguous", tree(app=[allow()], path_case="insensitive"), ask(path="/%E2%84%AA"), "deny", AMBIGUOUS),
    Corner("A13-dotless-i-is-ambiguous", tree(app=[allow()], path_case="insensitive"), ask(path="/adm%C4%B1n"), "deny", AMBIGUOUS),
    Corner("A13-kelvin-sign-is-a-letter-where-case-matters", tree(app=[allow()]), ask(path="/%E2%84%AA"), "allow", "app/r0"),
    Corner("A13-ambiguous-case-is-observed", tree(app=[allow()], observe=FUTURE, path_case="insensitive"), ask(path="/%E2%84%AA"), "allow", AMBIGUOUS),
    Corner("A04-query-does-not-matter", tree(app=[allow(to=[{"paths": ["/orders"]}])]), ask(path="/orders?/../admin"), "allow", "app/r0"),
    Corner("A11-host-is-canonical", tree(app=[allow(to=[{"hosts": ["db.corp.test"]}])]), ask(host="DB.corp.test.:8080"), "allow", "app/r0"),
    Corner("grpc-path", tree(app=[allow(to=[{"paths": ["/pkg.Svc/Get"]}])], ports=[(9000, "grpc")]), ask(port=9000, protocol="grpc", path="/pkg.Svc/Get", method="POST"), "allow", "app/r0"),
    Corner("A25-grpc-method-is-exact", tree(app=[allow(to=[{"paths": ["/pkg.Svc/Get"]}])], ports=[(9000, "grpc")]), ask(port=9000, protocol="grpc", path="/pkg.Svc/get", method="POST"), "deny", DEFAULT),
    # ports
    Corner("named-port", tree(app=[allow(to=[{"ports": [8080]}])], ports=[(8080, "http"), (81, "http")]), ask(port=81), "deny", DEFAULT),
    Corner("allow-without-ports-holds-where-fields-have-a-meaning", tree(app=[allow(to=[{"paths": ["/**"]}])], ports=[(8080, "http"), (5432, "tcp")]), ask(), "allow", "app/r0"),
    Corner("allow-without-ports-does-not-hold-elsewhere", tree(app=[allow(to=[{"paths": ["/**"]}])], ports=[(8080, "http"), (5432, "tcp")]), ask(port=5432), "deny", DEFAULT),
    Corner("plain-allow-holds-on-tcp", tree(app=[allow()], ports=[(5432, "tcp")]), ask(port=5432, protocol="tcp", path=None, method=None, host=None), "allow", "app/r0"),
    Corner("undeclared-port-is-allowed-by-nothing", tree(app=[allow()]), ask(port=9999), "deny", UNDECLARED),
    Corner("deny-with-named-port-spares-others", tree(app=[allow(), deny(to=[{"ports": [8080], "paths": ["/a"]}])], ports=[(8080, "http"), (5432, "tcp")]), ask(port=5432, protocol="tcp"), "allow", "app/r0"),
    Corner("L4-request-fields-are-unknown-to-deny", tree(app=[allow(), deny(to=[{"paths": ["/admin"]}])]), ask(protocol="tcp", path=None, method=None, host=None), "deny", "app/r1"),
    Corner("L4-request-fields-are-unknown-to-allow", tree(app=[allow(to=[{"paths": ["/**"]}])]), ask(protocol="tcp", path=None, method=None, host=None), "deny", DEFAULT),
    Corner("L4-headers-are-unknown", tree(app=[allow(), deny(when=ROLE_ADMIN)]), ask(protocol="tcp", path=None, method=None, host=None), "deny", "app/r1"),
    Corner("L4-has-no-path-hygiene", tree(app=[allow()], ports=[(5432, "tcp")]), ask(port=5432, protocol="tcp", path="/a;b"), "allow", "app/r0"),
    # ambiguous requests
    Corner("A08-ambiguous-path-is-refused-before-any-rule", tree(guardrail=[allow()]), ask(path="/admin;x"), "deny", AMBIGUOUS),
    Corner("A12-two-hosts", tree(app=[allow()]), ask(headers=(("Host", "a.test"), ("host", "b.test")), host=None), "deny", AMBIGUOUS),
    Corner("A12-host-and-another-host-header", tree(app=[allow()]), ask(headers=(("Host", "evil.test"),)), "deny", AMBIGUOUS),
    Corner("A12-joined-hosts", tree(app=[allow()]), ask(host="a.test,b.test"), "deny", AMBIGUOUS),
    Corner("host-seen-again-among-headers", tree(app=[allow()]), ask(headers=(("Host", "DB.corp.test"),)), "allow", "app/r0"),
    Corner("A15-policy-header-twice", tree(app=[allow(), deny(when=ROLE_ADMIN)]), ask(headers=(("x-role", "user"), ("X-Role", "admin"))), "deny", AMBIGUOUS),
    Corner("A16-policy-header-with-comma", tree(app=[allow(), deny(when=ROLE_ADMIN)]), ask(headers=(("x-role", "user,admin"),)), "deny", AMBIGUOUS),
    Corner("A16-policy-header-with-underscore", tree(app=[allow(), deny(when=ROLE_ADMIN)]), ask(headers=(("x_role", "admin"),)), "deny", AMBIGUOUS),
    Corner("A16-policy-header-with-underscore-for-its-own", tree(app=[allow(), deny(when={"headers": {"x_role": ["admin"]}})]), ask(headers=(("x-role", "admin"),)), "deny", AMBIGUOUS),
    Corner("other-header-twice", tree(app=[allow(), deny(when=ROLE_ADMIN)]), ask(headers=(("accept", "a"), ("accept", "b,c"))), "allow", "app/r0"),
    Corner("header-of-unless-is-a-policy-header", tree(app=[allow(unless={"when": ROLE_ADMIN})]), ask(headers=(("x-role", "a"), ("x-role", "b"))), "deny", AMBIGUOUS),
    # observe
    Corner("observe-overrides-default-deny", tree(observe=FUTURE), ask(), "allow", DEFAULT),
    Corner("observe-overrides-app-deny", tree(app=[deny()], observe=FUTURE), ask(), "allow", "app/r0"),
    Corner("observe-overrides-baseline-deny", tree(baseline=[deny()], observe=FUTURE), ask(), "allow", "baseline/r0"),
    Corner("observe-never-overrides-guardrail", tree(guardrail=[deny()], observe=FUTURE), ask(), "deny", "guardrail/r0"),
    Corner("observe-ends", tree(observe=PAST), ask(), "deny", DEFAULT),
    Corner("observe-ends-at-its-moment", tree(observe="2026-11-24T12:00:00Z"), ask(), "deny", DEFAULT),
    Corner("observe-ends-when-time-is-unknown", tree(observe=FUTURE), ask(time=None), "deny", DEFAULT),
    Corner("observe-lets-ambiguous-through", tree(observe=FUTURE), ask(path="/a;b"), "allow", AMBIGUOUS),
    Corner("observe-refuses-ambiguous-that-a-guardrail-deny-could-match", tree(guardrail=[deny(to=[{"paths": ["/admin/**"]}])], observe=FUTURE), ask(path="/a;b"), "deny", "guardrail/r0"),
    Corner("observe-lets-ambiguous-through-past-other-guardrail-deny", tree(guardrail=[deny(to=[{"methods": ["POST"], "paths": ["/admin/**"]}])], observe=FUTURE), ask(path="/a;b"), "allow", AMBIGUOUS),
    Corner("observe-lets-ambiguous-through-past-guardrail-deny-of-others", tree(guardrail=[deny(**{"from": [WEB]})], observe=FUTURE), ask(path="/a;b"), "allow", AMBIGUOUS),
    Corner("observe-refuses-ambiguous-header-of-guardrail-deny", tree(guardrail=[deny(when=ROLE_ADMIN)], observe=FUTURE), ask(headers=(("x-role", "u"), ("x-role", "v"))), "deny", "guardrail/r0"),
    Corner("observe-refuses-ambiguous-of-nobody", tree(observe=FUTURE), ask(path="/a;b", source=None), "deny", AMBIGUOUS),
    # conditions
    Corner("claim-of-a-list", tree(app=[allow(when=CLAIM_ADMIN)]), ask(claims=token(roles=["dev", "admin"])), "allow", "app/r0"),
    Corner("claim-as-text", tree(app=[allow(when=CLAIM_ADMIN)]), ask(claims=token(roles="admin")), "allow", "app/r0"),
    Corner("claim-is-not-a-substring", tree(app=[allow(when=CLAIM_ADMIN)]), ask(claims=token(roles="administrator")), "deny", DEFAULT),
    Corner("claims-are-anded", tree(app=[allow(when={"claims": {"issuer": IDP, "roles": ["admin"], "sub": ["u"]}})]), ask(claims=token(roles=["admin"])), "deny", DEFAULT),
    Corner("claim-types-are-kept", tree(app=[allow(when={"claims": {"issuer": IDP, "n": [1]}})]), ask(claims=token(n=True)), "deny", DEFAULT),
    Corner("claims-of-another-issuer", tree(app=[allow(when=CLAIM_ADMIN)]), ask(claims={"iss": f"{IDP}.evil", "roles": ["admin"]}), "deny", DEFAULT),
    Corner("claims-of-another-issuer-are-absent-to-deny", tree(app=[allow(), deny(when=CLAIM_ADMIN)]), ask(claims={"iss": "x", "roles": {}}), "allow", "app/r0"),
    Corner("malformed-claim-is-unknown", tree(app=[allow(), deny(when=CLAIM_ADMIN)]), ask(claims=token(roles={"admin": 1})), "deny", "app/r1"),
    Corner("half-malformed-claim-is-unknown", tree(app=[allow(when=CLAIM_ADMIN)]), ask(claims=token(roles=["admin", None])), "deny", DEFAULT),
    Corner("issuer-alone", tree(app=[allow(when={"claims": {"issuer": IDP}})]), ask(claims=token()), "allow", "app/r0"),
    Corner("header-value-in-any-case-of-name", tree(app=[allow(when=ROLE_ADMIN)]), ask(headers=(("X-ROLE", " admin "),)), "allow", "app/r0"),
    Corner("header-value-is-exact", tree(app=[allow(when=ROLE_ADMIN)]), ask(headers=(("x-role", "ADMIN"),)), "deny", DEFAULT),
    Corner("malformed-header-value-is-unknown", tree(app=[allow(), deny(when=ROLE_ADMIN)]), ask(headers=(("x-role", "a\x00"),)), "deny", "app/r1"),
    Corner("A20-obs-text-is-another-value", tree(app=[allow(), deny(when=ROLE_ADMIN)]), ask(headers=(("x-role", "\xff"),)), "allow", "app/r0"),
    Corner("A28-mapped-address-is-ipv4", tree(app=[allow(), deny(when={"peer_ip": ["10.0.0.0/8"]})]), ask(peer_ip="::ffff:10.1.2.3"), "deny", "app/r1"),
    Corner("A28-narrower-allow-does-not-win", tree(app=[allow(when={"peer_ip": ["10.1.2.0/24"]}), deny(when={"peer_ip": ["10.0.0.0/8"]})]), ask(), "deny", "app/r1"),
    Corner("A29-forwarded-address-is-another-attribute", tree(app=[allow(when={"peer_ip": ["10.0.0.0/8"]})]), ask(peer_ip="192.0.2.1", forwarded_ip="10.0.0.1"), "deny", DEFAULT),
    Corner("absent-forwarded-address-is-false", tree(app=[allow(), deny(when={"forwarded_ip": ["10.0.0.0/8"]})]), ask(), "allow", "app/r0"),
    Corner("A54-inside-hours", tree(app=[allow(when={"hours": {"tz": "UTC", "from": "12:00", "to": "18:00"}})]), ask(), "allow", "app/r0"),
    Corner("A54-hours-end-is-exclusive", tree(app=[allow(when={"hours": {"tz": "UTC", "from": "08:00", "to": "12:00"}})]), ask(), "deny", DEFAULT),
    Corner("A54-hours-wrap-midnight", tree(app=[allow(when={"hours": {"tz": "UTC", "from": "22:00", "to": "13:00"}})]), ask(), "allow", "app/r0"),
    Corner("A54-hours-in-their-zone", tree(app=[allow(when={"hours": {"tz": "Asia/Tokyo", "from": "20:00", "to": "22:00"}})]), ask(), "allow", "app/r0"),
    Corner("unknown-time-is-unknown-to-hours", tree(app=[allow(when={"hours": {"tz": "UTC", "from": "00:00", "to": "23:59"}})]), ask(time=None), "deny", DEFAULT),
    # services
    Corner("unknown-service", tree(app=[allow()]), ask(service="nothing"), "deny", "LM2305"),
    Corner("service-by-identity", tree(app=[allow()]), ask(service=f"{TD}/ns/shop/sa/db"), "allow", "app/r0"),
    Corner("service-by-unknown-identity", tree(app=[allow()]), ask(service=f"{TD}/ns/shop/sa/dbx"), "deny", "LM2305"),
]  # fmt: skip
