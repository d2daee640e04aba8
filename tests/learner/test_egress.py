import dataclasses
import datetime as dt

import pytest

from learner.egress import Gateway, egress_service, is_name, outside, read_gateway
from learner.history import History
from learner.propose import learn
from learner.risk import Watch
from mesh.flow import Flow
from policyengine.loader import load_text
from tests.learner.worlds import NS, START

GATEWAY = Gateway(identity=f"{NS}egress", port=8080)


def calls(source: str, host: str | None, count: int = 30, **more: object) -> list[Flow]:
    base = Flow(
        start=START,
        source=f"{NS}{source}",
        destination_ip="192.0.2.1",
        host=host,
        destination_port=443,
        protocol="tcp",
        established=True,
    )
    # neither as regular as a beacon, nor a burst
    return [
        dataclasses.replace(base, start=START + dt.timedelta(minutes=11 * n + n * n % 7), **more)  # type: ignore[arg-type]
        for n in range(count)
    ]


def folded(*flows: Flow) -> History:
    history = History()
    history.add(sorted(flows, key=lambda item: item.start))
    return history


def proposed(*flows: Flow) -> dict[tuple[str, str], dict[str, object]]:
    """By caller and host: what the rule of it says."""
    history = folded(*flows)
    service = egress_service(history, learn(history, Watch()), GATEWAY, "out")
    assert service is not None
    policies, findings = load_text(service.to_yaml(), "x")
    assert not [item for item in findings if item.severity == "error"]
    (policy,) = policies.policies
    assert policy.name == "out-egress"
    return {
        (rule.caller, rule.grants[0].hosts[0]): {"grant": rule.grants[0], **rule.evidence} for rule in service.rules
    }


def test_each_caller_and_name_is_a_rule_with_its_evidence() -> None:
    found = proposed(
        *calls("cart", "api.cards.test"), *calls("web", "API.cards.test.", 20), *calls("web", "x.example", 25)
    )
    assert {(caller.removeprefix(NS), host) for caller, host in found} == {
        ("cart", "api.cards.test"),
        ("web", "api.cards.test"),
        ("web", "x.example"),
    }
    one = found[f"{NS}cart", "api.cards.test"]
    assert (one["n"], one["days"], one["ports"]) == (30, 1, [443])


def test_requests_are_held_to_methods_and_templates() -> None:
    flows = [
        dataclasses.replace(item, path=f"/hooks/{place}")
        for place, item in enumerate(calls("web", "hooks.test", protocol="http", method="POST", status=200))
    ]
    found = proposed(*flows)
    grant = found[f"{NS}web", "hooks.test"]["grant"]
    assert grant.operations == (("POST", ("/hooks/{id:int}",)),)  # type: ignore[attr-defined]


def test_addresses_failures_and_datagrams_are_no_rules() -> None:
    history = folded(
        *calls("cart", None),
        *calls("cart", "refused.test", established=False),
        *calls("web", "dns.test", protocol="udp"),
    )
    lesson = learn(history, Watch())
    assert egress_service(history, lesson, GATEWAY, "out") is None
    assert {kind.destination for kind in outside(history, lesson)} <= {"dns.test"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("api.example.com", True), ("API.example.com.", True), ("192.0.2.1", False), ("fd00::1", False), ("host", False),
     ("a..b", False), ("x" * 254 + ".com", False), ("unknown", False), ("db.shop.svc.cluster.local", False),
     ("db.shop.svc", False)],
)  # fmt: skip
def test_names_are_told_from_addresses(text: str, expected: bool) -> None:
    assert is_name(text) is expected


@pytest.mark.parametrize("text", ["x", "spiffe://td/a", "spiffe://td/a:0", "spiffe://td:80", "spiffe://td/a:99999"])
def test_what_is_no_gateway_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SPIFFE ID"):
        read_gateway(text)


def test_a_gateway_is_an_identity_and_a_port() -> None:
    assert read_gateway(f"{NS}egress:8080") == GATEWAY
