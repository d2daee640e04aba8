"""Allows and denies as a tree: what rules cannot leave out is cut or passed on; decisions are those of the sets."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import SpiffeId, SpiffePattern
from policyengine import model
from policyengine.canonical import canonical_path
from policyengine.compile.boxes import Box, Field
from policyengine.decide import Index
from policyengine.importers.documents import read_documents
from policyengine.importers.trees import Said, policies_of, service_of, token_test
from tests.examples import examples
from tests.policyengine.compile.test_boxes import boxes, holds
from tests.policyengine.targets.wire import Call

CALLERS = ("spiffe://a/x", "spiffe://a/n/x", "spiffe://a/n/y", "spiffe://b/x")
IDENTITY = SpiffePattern.parse("spiffe://a/called")


def built(allows, denies):
    (document,) = read_documents([("f", "kind: A\n")])[0]
    listed = [
        [Said(box=box, id=f"{name}{place}", document=document, ports=(8080,)) for place, box in enumerate(found)]
        for name, found in (("a", allows), ("d", denies))
    ]
    policies = policies_of("db", *listed, (8080,))
    service = service_of("db", IDENTITY, {8080: "http"})
    return document, model.PolicySet(services=(service,), policies=policies)


calls = st.builds(
    Call,
    caller=st.sampled_from(CALLERS),
    method=st.sampled_from(("GET", "PUT", "POST")),
    host=st.sampled_from(("a.test", "b.test", "b.a.test", "c")),
    path=st.sampled_from(("/a", "/a/", "/a/b", "/z/b", "/a/c/d", "/")),
    headers=st.sampled_from(((), (("x", "1"),), (("x", "3"),))),
)


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(boxes, max_size=3), st.lists(boxes, max_size=2), st.lists(calls, min_size=1, max_size=10))
def test_a_tree_holds_allows_without_denies_or_less_and_says_so(allows, denies, some) -> None:
    document, policies = built(allows, denies)
    index = Index(policies, "s")
    for call in some:
        path = canonical_path(call.path).segments
        request = (SpiffeId.parse(str(call.caller)), call.method, call.host, path, dict(call.headers).get("x"))
        wanted = any(holds(box, request) for box in allows) and not any(holds(box, request) for box in denies)
        ours = index.decide(call.request("db")).effect is Effect.ALLOW
        assert wanted or not ours, call
        if document.status == "translated":
            assert wanted == ours, call


def test_a_deny_of_all_paths_but_one_is_cut_out_of_the_allows() -> None:
    from policyengine.canonical import PathPattern

    deny = Box(paths=Field(None, (PathPattern.parse("/healthz"),)))
    _, policies = built([Box()], [deny])
    (rule,) = policies.policies[0].rules
    assert (rule.effect, rule.to) == (Effect.ALLOW, (model.Operation(paths=(PathPattern.parse("/healthz"),)),))


def test_two_tokens_at_once_are_refused_by_name() -> None:
    both = frozenset({token_test("https://a.test", {}), token_test("https://b.test", {})})
    document, policies = built([Box(tests=both)], [])
    assert not policies.policies
    assert document.status == "refused"
