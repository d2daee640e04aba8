"""Consul's intentions in: the tree decides as Consul's documented semantics do, or is stricter and says so."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import TrustDomain
from policyengine.decide import Index
from policyengine.importers.consul import import_consul
from policyengine.importers.imported import files_of
from tests.examples import examples
from tests.policyengine.targets.consul import Intentions
from tests.policyengine.targets.wire import Call

TD = TrustDomain("corp.test")


def identity(name: str) -> str:
    return f"spiffe://corp.test/ns/default/dc/dc1/svc/{name}"


NAMES = {identity(name): name for name in ("web", "cart", "db", "other")}
https = st.fixed_dictionaries(
    {},
    optional={
        "PathExact": st.sampled_from(("/a", "/a/b")),
        "PathPrefix": st.sampled_from(("/", "/a", "/a/", "/admin")),
        "PathRegex": st.sampled_from(("/a.*",)),
        "Methods": st.lists(st.sampled_from(("GET", "PUT")), min_size=1, max_size=2, unique=True),
        "Header": st.lists(
            st.sampled_from(
                (
                    {"Name": "x-role", "Exact": "admin"},
                    {"Name": "X-Role", "Exact": "admin", "Invert": True},
                    {"Name": "x-role", "Present": True},
                    {"Name": "x-role", "Prefix": "adm"},
                )
            ),
            max_size=1,
        ),
    },
).filter(lambda row: sum(name in row for name in ("PathExact", "PathPrefix", "PathRegex")) <= 1)
permissions = st.lists(st.builds(lambda a, h: {"Action": a, "HTTP": h}, st.sampled_from(("allow", "deny")), https),
                       min_size=1, max_size=3)  # fmt: skip


def sources(l7: bool):
    action = st.sampled_from(({"Action": "allow"}, {"Action": "deny"}))
    what = action | permissions.map(lambda found: {"Permissions": found}) if l7 else action
    return st.lists(
        st.tuples(st.sampled_from(("web", "cart", "*")), what), max_size=3, unique_by=lambda row: row[0]
    ).map(lambda rows: [{"Name": name, **rest} for name, rest in rows])


def entry(name: str, found: list[dict[str, object]]) -> dict[str, object]:
    return {"Kind": "service-intentions", "Name": name, "Sources": found}


calls = st.builds(
    Call,
    caller=st.sampled_from((*NAMES, "spiffe://evil.test/ns/default/dc/dc1/svc/web", None)),
    method=st.sampled_from(("GET", "PUT", "POST")),
    path=st.sampled_from(("/a", "/a/b", "/ab", "/admin/x", "/", "/c?q=/a")),
    headers=st.sampled_from(((), (("x-role", "admin"),), (("x-role", "user"),))),
)


def translate(*entries):
    defaults = {"Kind": "service-defaults", "Name": "db", "Protocol": "http"}
    files = [(f"{place}.json", json.dumps(item)) for place, item in enumerate((*entries, defaults))]
    return import_consul(files, TD)


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(sources(True), sources(False), st.lists(calls, min_size=1, max_size=12))
def test_a_tree_never_allows_what_consul_denies_and_keeps_the_rest_where_nothing_is_said(own, every, some) -> None:
    done = translate(entry("db", own), entry("*", every))
    files_of(done)
    codes = {item.code for document in done.documents for item in document.findings}
    # the intention of the called service itself comes before that of `*`, whatever the source
    exact = {item["Name"] for item in own}
    rest = [] if "*" in exact else [item for item in every if item["Name"] not in exact]
    intentions, index = Intentions([*own, *rest], NAMES), Index(done.policies, "s")
    for call in some:
        ours = index.decide(call.request(identity("db"))).effect is Effect.ALLOW
        assert intentions.allows(call) or not ours, call
        if not codes & {"LM2500", "LM2501"} and own:
            assert ours == intentions.allows(call), call


def test_a_resource_of_kubernetes_says_the_same_as_a_config_entry() -> None:
    resource = {
        "apiVersion": "consul.hashicorp.com/v1alpha1",
        "kind": "ServiceIntentions",
        "metadata": {"name": "db"},
        "spec": {
            "destination": {"name": "db"},
            "sources": [
                {"name": "web", "permissions": [{"action": "allow", "http": {"pathExact": "/a", "methods": ["GET"]}}]}
            ],
        },
    }
    config = entry(
        "db", [{"Name": "web", "Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/a", "Methods": ["GET"]}}]}]
    )
    assert translate(resource).policies.to_json() == translate(config).policies.to_json()


def test_tokens_are_those_of_providers_whose_issuer_is_known() -> None:
    provider = {"Kind": "jwt-provider", "Name": "okta", "Issuer": "https://idp.test"}
    needed = {**entry("db", [{"Name": "web", "Action": "allow"}]), "JWT": {"Providers": [{"Name": "okta"}]}}
    done = translate(needed, provider)
    (rule,) = done.policies.policies_for("db")[0].rules
    assert rule.when is not None
    assert rule.when.claims is not None
    assert rule.when.claims.issuer == "https://idp.test"
    assert not translate(needed).policies.policies_for("db")


@pytest.mark.parametrize(
    "broken",
    [
        entry("db", [{"Action": "allow"}]),
        entry("db", [{"Name": "web", "Action": "allow", "Surprise": 1}]),
        {**entry("db", []), "Sources": {"Name": "x"}},
    ],
)
def test_a_malformed_entry_allows_nothing_and_is_named(broken) -> None:
    done = translate(broken, entry("other", [{"Name": "*", "Action": "allow"}]))
    assert done.documents[0].status == "malformed"
    assert not done.policies.policies


def test_a_source_of_a_peer_is_refused_by_name() -> None:
    done = translate(entry("db", [{"Name": "web", "Peer": "east", "Action": "allow"}]))
    assert [item.code for item in done.documents[0].findings if item.code == "LM2500"] == ["LM2500"]
