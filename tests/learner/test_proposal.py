from learner.proposal import Grant, ProposedRule, ProposedService
from policyengine.formatting import formatted
from policyengine.loader import load_text

EVIDENCE = {"n": 1, "examples": ['GET /a"b', "ü: #"]}


def test_what_is_written_loads_and_says_the_same() -> None:
    rule = ProposedRule(
        id="from-web",
        caller="spiffe://td/web",
        grants=(
            Grant(port=1),
            Grant(
                port=2, operations=(("DELETE", ("/a/{id:int}",)), ("GET", ("/a/{id:int}",)), ("POST", ("/b%20c", "/d")))
            ),
        ),
        evidence=EVIDENCE,
    )
    service = ProposedService(
        name="db", owner="team-x", identity="spiffe://td/db", ports=((1, "tcp"), (2, "http")), rules=(rule,)
    )
    text = service.to_yaml()
    assert text == service.to_yaml()
    assert 'methods: [DELETE, GET], paths: ["/a/{id:int}"]' in text
    found, findings = load_text(text, "x")
    assert not [item for item in findings if item.severity == "error"]
    assert [item.name for item in found.services] == ["db"]
    assert formatted(text, "x") == text, "in the one form of policy files"
    assert found.policies[0].rules[0].to is not None
    assert len(found.policies[0].rules[0].to) == 3


def test_names_that_yaml_reads_as_something_else_are_quoted() -> None:
    for name in ("no", "080", "0x10", "true", "null", "1", "1.5"):
        rule = ProposedRule(id=name, caller="spiffe://td/web", grants=(Grant(port=1),), evidence=EVIDENCE)
        service = ProposedService(name=name, owner=name, identity="spiffe://td/x", ports=((1, "tcp"),), rules=(rule,))
        found, findings = load_text(service.to_yaml(), "x")
        assert findings == []
        assert (found.services[0].name, found.services[0].owner, found.policies[0].rules[0].id) == (name, name, name)


def test_a_service_that_nobody_may_call_has_no_policy() -> None:
    service = ProposedService(name="1", owner="unowned", identity="spiffe://td/x", ports=((1, "tcp"),), rules=())
    found, findings = load_text(service.to_yaml(), "x")
    assert not [item for item in findings if item.severity == "error"]
    assert (found.services[0].name, found.policies) == ("1", ())
