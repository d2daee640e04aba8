"""Rules of an AuthorizationPolicy: lists ORed, fields ANDed, TCP as Istio has it."""

import pytest

from mesh.spiffe import TrustDomain
from policyengine.importers.documents import Malformed, read_documents, spec_of
from policyengine.importers.istiorule import Context, ports_of, reads_request, rules_of


def rules(text: str, **changes):
    (document,) = read_documents(
        [("f", f"kind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {{rules: {text}}}\n")]
    )[0]
    fields = {
        "document": document, "is_deny": False, "is_tcp": False, "ports": (8080,), "domain": TrustDomain("corp.test"),
        "issuers": ("https://idp.test",), **changes,
    }  # fmt: skip
    return document, rules_of(spec_of(document), Context(**fields))


def test_no_rules_say_nothing_and_a_rule_without_fields_holds_always() -> None:
    assert rules("[]")[1] == []
    (said,) = rules("[{}]")[1]
    assert said.box.callers.is_free
    assert said.ports == (8080,)


def test_sources_and_operations_are_every_pair() -> None:
    sources = "[{source: {namespaces: [a]}}, {source: {namespaces: [b]}}]"
    text = f"[{{from: {sources}, to: [{{operation: {{paths: [/a]}}}}, {{operation: {{methods: [GET]}}}}]}}]"
    assert len(rules(text)[1]) == 4


@pytest.mark.parametrize("field", ["paths: [/a]", "methods: [GET]", "hosts: [a.test]", "notPaths: [/a]"])
def test_on_a_tcp_port_a_field_of_http_voids_an_allow_and_falls_out_of_a_deny(field: str) -> None:
    text = f"[{{to: [{{operation: {{{field}}}}}]}}]"
    assert rules(text, is_tcp=True)[1] == []
    document, (said,) = rules(text, is_tcp=True, is_deny=True)
    assert said.box.paths.is_free
    assert document.status == "stricter"


@pytest.mark.parametrize(
    "text",
    [
        "[{from: [{source: {}}]}]",
        "[{to: [{operation: null}]}]",
        "[{from: [{sauce: {}}]}]",
        "[{when: [{values: [a]}]}]",
        "[{when: [{key: source.ip}]}]",
        "[{to: [{operation: {ports: [http]}}]}]",
        "[{from: [{source: {principal: [a]}}]}]",
    ],
)
def test_what_istio_would_refuse_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        rules(text)


def test_a_condition_without_a_name_voids_an_allow_and_frees_a_deny() -> None:
    text = "[{when: [{key: connection.sni, values: [a]}]}]"
    document, found = rules(text)
    assert found == []
    assert document.status == "refused"
    document, (said,) = rules(text, is_deny=True)
    assert said.box.tests == frozenset()
    assert document.status == "stricter"


def test_a_reported_address_is_denied_as_the_peers_too() -> None:
    _, found = rules("[{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]", is_deny=True)
    assert len(found) == 2


def test_ports_and_fields_of_http_are_found() -> None:
    text = "{to: [{operation: {ports: ['80', '99999', x]}}]}, {when: [{key: 'request.headers[a]'}]}"
    (document,) = read_documents([("f", f"kind: A\nspec: {{rules: [{text}]}}\n")])[0]
    assert ports_of(spec_of(document)) == {80}
    assert reads_request(spec_of(document))
