"""The matcher of a tree: maps for callers, methods and plain paths, templates below prefixes, total everywhere."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.spiffe import SpiffePattern
from policyengine.canonical import CanonicalPath, PathPattern, canonical_path
from policyengine.compile import envoymatch
from policyengine.compile.envoymatch import action, by_caller, is_readable_header, regex_of
from tests.examples import examples
from tests.policyengine.strategies import PATTERNS, TARGETS
from tests.policyengine.targets import envoy as target

TD = "spiffe://corp.test"


def named(text: str) -> dict[str, object]:
    return action(text, allows=True)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (f"{TD}/ns/shop/sa/web", "web"),
        (f"{TD}/ns/shop/sa/web/x", "shop"),
        (f"{TD}/ns/shop", "domain"),
        (f"{TD}/ns/shop-evil/sa/web", "domain"),
        (TD + "x/ns/shop/sa/web", "rest"),
        ("spiffe://other.test/ns/shop/sa/web", "rest"),
    ],
)
def test_a_caller_is_of_the_narrowest_class_that_holds_it(source: str, name: str) -> None:
    rows = [(f"{TD}/ns/shop/sa/web", "web"), (f"{TD}/ns/shop/**", "shop"), (f"{TD}/**", "domain")]
    matcher = by_caller([*((SpiffePattern.parse(text), named(word)) for text, word in rows), (None, named("rest"))])
    assert target.decide(matcher["matcher"], {"uri-san": source})[0] == name


# INVARIANT: the expression of a pattern is the pattern, over the text of canonical paths.
@settings(max_examples=examples(800), deadline=None)
@given(
    st.sampled_from((*PATTERNS, "/a.c/{x}", "/{x:int}/(%2B)", "/q/{x}/%5Bb%5D/**", "/{x:token}/é")),
    st.sampled_from((*TARGETS, "/abc/x", "/a.c/x", "/7/(+)", "/7/(((", "/q/1/%5Bb%5D/z", "/q/1/b/", "/t/%C3%A9")),
)
def test_templates_are_expressions_with_every_literal_escaped(pattern: str, raw: str | None) -> None:
    found = None if raw is None else canonical_path(raw)
    if isinstance(found, CanonicalPath):
        parsed = PathPattern.parse(pattern)
        assert (re.fullmatch(regex_of(parsed), found.text) is not None) == parsed.matches(found.segments)


def test_literals_outside_of_templates_are_in_no_expression() -> None:
    assert regex_of(PathPattern.parse("/a.b/{x}")) == r"/a\x2eb/[^/]+"


@pytest.mark.parametrize(
    ("name", "is_read"),
    [("x-role", True), ("authorization", True), ("x-forwarded-for", False), ("x-envoy-y", False), ("host", False),
     (":path", False), ("cookie", False), ("connection", False),
     ("x-forwarded-client-cert", False), ("content-length", False)],
)  # fmt: skip
def test_headers_that_envoy_sets_itself_are_not_read(name: str, *, is_read: bool) -> None:
    assert is_readable_header(name) == is_read


def test_an_ipv4_network_holds_its_addresses_inside_ipv6_too() -> None:
    blocks = list(envoymatch._blocks(__import__("ipaddress").ip_network("10.0.0.0/8")))
    assert blocks == [("10.0.0.0", 8), ("::ffff:10.0.0.0", 104)]


def test_nothing_but_matchers_is_written() -> None:
    matcher = json.dumps(by_caller([(SpiffePattern.parse(f"{TD}/**"), named("a"))]))
    assert '"rules"' not in matcher
    assert "keep_matching" not in matcher
