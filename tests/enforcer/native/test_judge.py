"""What is decided with which policies, and that everything unclear is denied."""

from __future__ import annotations

import datetime as dt

import pytest

from enforcer.native import judge
from enforcer.native.http1 import Framing, RequestHead, RequestReader
from enforcer.native.judge import Judge, Rules
from mesh.problems import Invalid
from mesh.request import Request
from policyengine import reference
from policyengine.tiers import PortTier
from policyengine.wire import Kept, read_policy_set
from tests import bypasses
from tests.enforcer.native.harness import ALLOW_WEB, ALLOW_WEB_TCP, DB, OPS, WEB, policies

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def rules(*found: dict[str, object], name: str = "h", **more: str) -> Rules:
    return Rules.from_json(name, policies(*found, **more))  # type: ignore[arg-type]  # all of them are text


def head(target: str = "/orders", *fields: tuple[bytes, bytes], method: str = "GET") -> RequestHead:
    return RequestHead(method, target, "db.corp.test", "db.corp.test", fields, Framing.NONE, 0, True, False)


def ask(found: Judge, request: RequestHead, source: str = WEB) -> judge.Judgement:
    return found.request(request, source=source, port=8080, peer_ip="127.0.0.1", now=NOW)


def test_denies_without_policies() -> None:
    found = Judge(DB, None, None)
    assert ask(found, head()).decision.code == judge.NO_POLICY
    assert found.connection(source=WEB, port=8080, peer_ip="", now=NOW).decision.code == judge.NO_POLICY
    assert found.tier(8080) is PortTier.L4


def test_allows_what_a_rule_allows_and_sends_on_the_canonical_target() -> None:
    found = ask(Judge(DB, rules(ALLOW_WEB), None), head("/orders/./%7ea?x=%2e"))
    assert found.decision.is_allowed
    assert (found.target, found.path) == ("/orders/~a?x=%2e", "/orders/~a")


@pytest.mark.parametrize(
    ("source", "target"),
    [(OPS, "/orders"), (WEB, "/admin"), (WEB, "/orders/..;/x"), (WEB, "/orders%2f"), ("", "/orders")],
)
def test_denies_everything_else(source: str, target: str) -> None:
    assert not ask(Judge(DB, rules(ALLOW_WEB), None), head(target), source).decision.is_allowed


def test_a_candidate_is_decided_beside_and_never_changes_the_decision() -> None:
    only, both = rules(ALLOW_WEB), rules(name="c")
    with_candidate = ask(Judge(DB, only, both), head())
    assert with_candidate.decision == ask(Judge(DB, only, None), head()).decision
    assert with_candidate.candidate is not None
    assert not with_candidate.candidate.is_allowed


def test_a_candidate_that_reads_requests_makes_the_port_parsed() -> None:
    assert Judge(DB, rules(ALLOW_WEB_TCP), None).tier(8080) is PortTier.L4
    assert Judge(DB, rules(ALLOW_WEB_TCP), rules(ALLOW_WEB)).tier(8080) is PortTier.HTTP1


def test_a_bug_in_deciding_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    active = rules(ALLOW_WEB)

    def broken(_: object) -> object:
        raise ZeroDivisionError

    class Broken:
        decide = staticmethod(broken)

    found = Judge(DB, Rules(snapshot="h", policies=active.policies, index=Broken()), None)  # type: ignore[arg-type]
    assert ask(found, head()).decision.code == judge.BROKEN


def test_a_token_that_nobody_verified_makes_claims_unknown() -> None:
    claims = {"issuer": "https://idp.test", "roles": ["admin"]}
    deny: dict[str, object] = {"id": "no-admins", "effect": "deny", "from": ["any"], "when": {"claims": claims}}
    found = Judge(DB, rules(ALLOW_WEB, deny), None)
    assert ask(found, head()).decision.is_allowed
    assert not ask(found, head("/orders", (b"Authorization", b"Bearer x"))).decision.is_allowed


def test_headers_reach_the_rules_that_read_them() -> None:
    deny: dict[str, object] = {
        "id": "no-b",
        "effect": "deny",
        "from": ["any"],
        "when": {"headers": {"x-tenant": ["b"]}},
    }
    found = Judge(DB, rules(ALLOW_WEB, deny), None)
    assert ask(found, head("/orders", (b"X-Tenant", b"a"))).decision.is_allowed
    assert not ask(found, head("/orders", (b"X-Tenant", b"b"))).decision.is_allowed
    assert not ask(found, head("/orders", (b"X-Tenant", b"a"), (b"x-tenant", b"a"))).decision.is_allowed


@pytest.mark.parametrize(
    ("identity", "service", "member"),
    [(DB, "db", True), (WEB, "db", False), (DB, "web", False), (DB, DB, True), (WEB, DB, False), ("", "db", False)],
)
def test_knows_which_identities_a_service_has(identity: str, service: str, member: bool) -> None:
    assert Judge(WEB, rules(ALLOW_WEB), None).is_member(identity, service) is member


def test_without_policies_a_service_is_only_its_own_identity() -> None:
    found = Judge(WEB, None, None)
    assert found.is_member(DB, DB)
    assert not found.is_member(DB, "db")


def test_policies_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(Invalid) as err:
        Rules.from_json("h", {"services": []})
    assert err.value.code == "LM2001"


def test_the_catalogue_of_bypasses_is_whole() -> None:
    assert {bypass.name[:3] for bypass in bypasses.BYPASSES} == {f"A{number:02}" for number in range(1, 28)}
    assert len({bypass.name for bypass in bypasses.BYPASSES}) == len(bypasses.BYPASSES)


@pytest.mark.parametrize("case", bypasses.cases(), ids=bypasses.case_id)
def test_bypass_has_its_verdict(case: tuple[bypasses.Bypass, bypasses.Service]) -> None:
    bypass, service = case
    told = bypasses.policies(service)
    reader = RequestReader()
    reader.feed(bypass.raw)
    try:
        found = reader.head()
    except Invalid:
        assert bypass.verdict == "deny"
        return
    assert found is not None
    judged = ask(Judge(DB, Rules.from_json("h", told), None), found)
    assert ("allow" if judged.decision.is_allowed else "deny") == bypass.verdict
    asked = Request(
        service=DB,
        port=8080,
        protocol="http",
        source=WEB,
        method=found.method,
        host=found.host,
        path=found.target,
        headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in found.fields),
        peer_ip="127.0.0.1",
        time=NOW,
    )
    assert reference.decide(read_policy_set(told), asked, snapshot="h") == judged.decision


@pytest.mark.parametrize("target", ["/Orders/7", "/ORDERS/%37"])
def test_a_path_that_ignores_case_is_sent_on_as_it_was_spelt(target: str) -> None:
    told = policies(ALLOW_WEB)
    told["services"][0]["path_case"] = "insensitive"  # type: ignore[index]
    found = ask(Judge(DB, Rules.from_json("h", told), None), head(target))
    assert found.decision.is_allowed
    assert found.target == target.replace("%37", "7")


CONDITIONS: dict[str, dict[str, object]] = {
    "none": {},
    "headers": {"when": {"headers": {"x-tenant": ["a"]}}},
    "peer_ip": {"when": {"peer_ip": ["10.0.0.0/8"]}},
    "hours": {"when": {"hours": {"tz": "UTC", "from": "08:00", "to": "11:00"}}},
    "unless": {"unless": {"when": {"peer_ip": ["127.0.0.1/32"]}}},
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("is_candidate", [False, True], ids=["active", "candidate"])
def test_an_answer_is_remembered_only_where_no_rule_has_a_condition(condition: str, is_candidate: bool) -> None:
    other = rules(ALLOW_WEB | CONDITIONS[condition], name="c")
    found = Judge(DB, rules(ALLOW_WEB), other) if is_candidate else Judge(DB, other, None)
    assert (ask(found, head()) is ask(found, head())) is (condition == "none")


def test_an_answer_is_remembered_for_one_caller_port_method_host_and_target() -> None:
    found = Judge(DB, rules(ALLOW_WEB), None)
    first = ask(found, head())
    others = (
        ask(found, head(), OPS),
        found.request(head(), source=WEB, port=8081, peer_ip="127.0.0.1", now=NOW),
        ask(found, head(method="PUT")),
        ask(found, head()._replace(host="other.test")),
        ask(found, head("/other")),
    )
    assert first.decision.is_allowed
    assert not any(other.decision.is_allowed for other in others)


def test_what_is_remembered_is_bounded_and_ends_with_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "MAX_ANSWERS", 2)
    found = Judge(DB, rules(ALLOW_WEB), None)
    first = ask(found, head("/orders/0"))
    for number in (1, 2, 3):
        ask(found, head(f"/orders/{number}"))
    assert ask(found, head("/orders/0")) is not first
    assert not ask(Judge(DB, rules(), None), head("/orders/0")).decision.is_allowed


def test_a_service_in_observe_is_decided_each_time_since_it_ends() -> None:
    found = Judge(DB, rules(mode="observe"), None)
    assert ask(found, head()).decision.is_allowed
    later = found.request(head(), source=WEB, port=8080, peer_ip="", now=NOW + dt.timedelta(days=365_0))
    assert not later.decision.is_allowed


@pytest.mark.parametrize(
    ("protocol", "port", "speaks"),
    [("http", None, True), ("http", 8080, True), ("http", 9, False), ("tcp", None, False), ("grpc", 8080, False)],
)
def test_a_service_speaks_http_where_everything_that_may_be_reached_is_declared_to(
    protocol: str, port: int | None, speaks: bool
) -> None:
    found = Judge(WEB, rules(ALLOW_WEB_TCP, protocol=protocol), None)
    assert found.speaks_http("db", port) is found.speaks_http(DB, port) is speaks
    assert not found.speaks_http("other", port)
    assert not Judge(WEB, None, None).speaks_http("db", port)


def test_two_judges_say_the_same_of_a_service_only_where_they_hold_the_very_same_objects() -> None:
    kept = Kept()

    def judged(*found: dict[str, object], **more: str) -> Judge:
        read = read_policy_set(policies(*found, **more), kept)  # type: ignore[arg-type]  # all of them are text
        return Judge(WEB, Rules.of("h", read), None)

    first = judged(ALLOW_WEB)
    assert first.says_the_same(judged(ALLOW_WEB), "db")
    assert first.says_the_same(judged(ALLOW_WEB), DB)
    assert not first.says_the_same(judged(ALLOW_WEB_TCP), "db")
    assert not first.says_the_same(judged(ALLOW_WEB, mode="observe"), "db")
    assert not first.says_the_same(Judge(WEB, rules(ALLOW_WEB), None), "db")
    assert not first.says_the_same(Judge(WEB, None, None), "db")
    assert Judge(WEB, None, None).says_the_same(Judge(WEB, None, None), "db")
