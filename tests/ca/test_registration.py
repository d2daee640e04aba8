import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.registration import Entitlement, Facts, IdentityRule, Refusal, RuleSet, Selector, fill
from ca.ruletie import may_meet
from mesh.spiffe import SpiffeId, TrustDomain

DOMAIN = TrustDomain.parse("corp.test")
PROCESS: Facts = {
    "unix:uid": ("1001",),
    "unix:path": ("/opt/shop/cart",),
    "unix:basename": ("cart",),
    "unix:group": ("shop", "docker"),
    "unix:sha256": ("ab" * 32,),
}


def rule(name: str, spiffe_id: str = "/{unix:basename}", **match: str) -> IdentityRule:
    selectors = tuple(Selector.parse(key.replace("_", ":", 1), value) for key, value in match.items())
    return IdentityRule(id=name, match=selectors, spiffe_id=spiffe_id)


def entitle(*rules: IdentityRule, facts: Facts = PROCESS) -> str:
    """The path and the rule, or the code of the refusal."""
    found = RuleSet(rules=rules).entitle(facts, DOMAIN)
    return found.code if isinstance(found, Refusal) else f"{found.rule} {found.spiffe_id.path}"


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        pytest.param("cart", ("cart",), True, id="exact"),
        pytest.param("cart", ("cart2",), False, id="exact-is-no-prefix"),
        pytest.param("cart", ("Cart",), False, id="case"),
        pytest.param("cart", (), False, id="no-fact"),
        pytest.param("cart", ("web", "cart"), True, id="some-value"),
        pytest.param("ca*", ("cart",), True, id="prefix"),
        pytest.param("cart*", ("cart",), True, id="prefix-is-the-whole"),
        pytest.param("carts*", ("cart",), False, id="prefix-is-longer"),
        pytest.param("*", ("anything",), True, id="star-is-any-value"),
        pytest.param("*", (), False, id="star-needs-a-value"),
        pytest.param("", ("",), True, id="empty"),
        pytest.param("", ("x",), False, id="empty-is-exact"),
        pytest.param("/opt/*", ("/opt/../etc/x",), True, id="values-are-compared-as-text"),
    ],
)
def test_a_selector(text: str, values: tuple[str, ...], *, expected: bool) -> None:
    assert Selector.parse("unix:path", text).matches({"unix:path": values}) is expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param((), "LM1210", id="no-rules"),
        pytest.param((rule("a", unix_uid="1002"),), "LM1210", id="none-matches"),
        pytest.param((rule("a", unix_uid="1001"),), "a /cart", id="one"),
        pytest.param((rule("a", unix_uid="1001", unix_user="x"),), "LM1210", id="all-selectors-must-match"),
        pytest.param(
            (rule("a", unix_uid="1001"), rule("b", unix_uid="1001", unix_path="/opt/*")), "b /cart", id="more-selectors"
        ),
        pytest.param((rule("a", unix_path="/opt/*"), rule("b", unix_uid="1001")), "b /cart", id="exact-before-prefix"),
        pytest.param(
            (rule("a", unix_path="/opt/shop/*"), rule("b", unix_path="/opt/*")), "LM1211", id="longer-prefix-is-a-tie"
        ),
        pytest.param((rule("a", unix_uid="1001"), rule("b", unix_basename="cart")), "LM1211", id="tie"),
        pytest.param(
            (
                rule("a", unix_uid="1001"),
                rule("b", unix_basename="cart"),
                rule("c", unix_uid="1001", unix_basename="cart"),
            ),
            "c /cart",
            id="a-tie-below-the-best-is-none",
        ),
        pytest.param(
            (rule("a", unix_uid="1001"), rule("b", "/{unix:group}", unix_uid="1001", unix_basename="cart")),
            "LM1212",
            id="nothing-less-specific-takes-its-place",
        ),
    ],
)
def test_which_rule_wins(rules: tuple[IdentityRule, ...], expected: str) -> None:
    assert entitle(*rules) == expected
    assert entitle(*reversed(rules)) == expected


@pytest.mark.parametrize(
    ("template", "facts", "expected"),
    [
        pytest.param("/fixed", {}, "a /fixed", id="no-template"),
        pytest.param("/ns/{unix:basename}/x", {}, "a /ns/cart/x", id="one-segment"),
        pytest.param("/{unix:basename}-{unix:uid}", {}, "a /cart-1001", id="two-in-a-segment"),
        pytest.param("/{unix:group}", {}, "LM1212", id="two-values"),
        pytest.param("/{unix:user}", {}, "LM1212", id="no-value"),
        pytest.param("/{unix:path}", {}, "LM1212", id="slashes"),
        pytest.param("/{unix:basename}", {"unix:basename": ("..",)}, "LM1212", id="dots"),
        pytest.param("/{unix:basename}", {"unix:basename": (".",)}, "LM1212", id="dot"),
        pytest.param("/{unix:basename}", {"unix:basename": ("",)}, "LM1212", id="empty"),
        pytest.param("/{unix:basename}", {"unix:basename": ("a/../b",)}, "LM1212", id="climbing"),
        pytest.param("/{unix:basename}", {"unix:basename": ("a%2fb",)}, "LM1212", id="percent"),
        pytest.param("/{unix:basename}", {"unix:basename": ("a b",)}, "LM1212", id="space"),
        pytest.param("/{unix:basename}", {"unix:basename": ("cart\n",)}, "LM1212", id="line-end"),
        pytest.param("/{unix:basename}", {"unix:basename": ("{unix:uid}",)}, "LM1212", id="a-template-is-no-value"),
        pytest.param("/{unix:basename}", {"unix:basename": ("caf\u00e9",)}, "LM1212", id="not-ascii"),
        pytest.param("/{unix:basename}", {"unix:basename": ("x" * 3000,)}, "LM1212", id="too-long"),
        pytest.param("/.{unix:basename}", {"unix:basename": (".a",)}, "a /..a", id="two-dots-and-more"),
        pytest.param("/.{unix:basename}", {"unix:basename": (".",)}, "LM1212", id="dots-by-parts"),
    ],
)
def test_templates(template: str, facts: Facts, expected: str) -> None:
    assert entitle(rule("a", template, unix_uid="1001"), facts={**PROCESS, **facts}) == expected


@pytest.mark.parametrize(
    ("template", "basename", "expected"),
    [
        pytest.param("{unix:basename}.corp.test", "cart", "cart.corp.test", id="label"),
        pytest.param("cart.corp.test", "x", "cart.corp.test", id="fixed"),
        pytest.param("{unix:basename}", "*", None, id="wildcard"),
        pytest.param("{unix:basename}.corp.test", "*", None, id="wildcard-label"),
        pytest.param("{unix:basename}", "Cart", None, id="upper-case"),
        pytest.param("{unix:basename}", "a_b", None, id="underscore"),
        pytest.param("{unix:basename}.corp.test", "", None, id="empty-label"),
        pytest.param("{unix:basename}.corp.test", "evil.test,", None, id="comma"),
        pytest.param("{unix:basename}", "caf\u00e9", None, id="not-ascii"),
        pytest.param("{unix:basename}", "-a", None, id="leading-dash"),
        pytest.param("{unix:basename}", "cart\n", None, id="line-end"),
        pytest.param("{unix:basename}", "a" * 64, None, id="long-label"),
        pytest.param("{unix:basename}.corp.test", ".".join(["a" * 60] * 5), None, id="long-name"),
    ],
)
def test_a_dns_name_is_a_host_name_whatever_the_process_is_called(
    template: str, basename: str, expected: str | None
) -> None:
    named = IdentityRule(id="a", match=(Selector.parse("unix:uid", "1001"),), spiffe_id="/fixed", dns_names=(template,))
    found = RuleSet(rules=(named,)).entitle({**PROCESS, "unix:basename": (basename,)}, DOMAIN)
    if expected is None:
        assert isinstance(found, Refusal)
        assert found.code == "LM1212"
    else:
        assert isinstance(found, Entitlement)
        assert found.dns_names == (expected,)


@given(st.dictionaries(st.sampled_from(["unix:basename", "unix:uid", "unix:path"]), st.tuples(st.text(max_size=12))))
def test_any_facts_give_an_id_below_the_template_or_a_refusal(facts: dict[str, tuple[str, ...]]) -> None:
    rules = RuleSet(rules=(rule("a", "/fixed/{unix:basename}/{unix:path}", unix_uid="*"),))
    found = rules.entitle(facts, DOMAIN)
    if isinstance(found, Refusal):
        assert found.code in {"LM1210", "LM1212"}
    else:
        assert SpiffeId.parse(str(found.spiffe_id)) == found.spiffe_id
        assert found.spiffe_id.segments[0] == "fixed"
        assert len(found.spiffe_id.segments) == 3


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        pytest.param({"unix_uid": "1"}, True, id="uid"),
        pytest.param({"unix_path": "/opt/x"}, True, id="path"),
        pytest.param({"unix_sha256": "ab"}, False, id="digest"),
        pytest.param({"launch_path": "/opt/x"}, False, id="launched"),
        pytest.param({"launch_path": "/opt/*"}, False, id="launched-from-a-folder"),
        pytest.param({"launch_path": "*"}, True, id="launched-from-anywhere"),
        pytest.param({"unix_sha256": "*"}, True, id="any-digest"),
        pytest.param({"launch_script_sha256": "a*"}, True, id="half-a-digest"),
        pytest.param({"docker_image-digest": f"sha256:{'a' * 64}"}, True, id="the-digest-of-an-image"),
        pytest.param({"docker_label:sha256": "a"}, True, id="a-label-that-is-called-a-digest"),
        pytest.param({"k8s_pod-label:x-sha256": "a"}, True, id="a-pod-label-that-is-called-a-digest"),
        pytest.param({"k8s_ns": "shop", "unix_sha256": "ab"}, False, id="a-namespace-and-a-digest"),
    ],
)
def test_a_rule_without_a_program_is_bound_to_its_container(match: dict[str, str], *, expected: bool) -> None:
    assert rule("a", **match).is_container_bound is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param({"unix_uid": "1"}, {"unix_uid": "1"}, True, id="same"),
        pytest.param({"unix_uid": "1"}, {"unix_uid": "2"}, False, id="other-values"),
        pytest.param({"unix_path": "/a*"}, {"unix_path": "/a/b*"}, True, id="prefix-of-prefix"),
        pytest.param({"unix_path": "/a*"}, {"unix_path": "/b*"}, False, id="other-prefixes"),
        pytest.param({"unix_path": "/a*"}, {"unix_path": "/a/b"}, False, id="exact-is-more-specific"),
        pytest.param(
            {"unix_path": "/a*", "unix_uid": "1"}, {"unix_path": "/a", "unix_uid": "1*"}, True, id="crosswise"
        ),
        pytest.param({"unix_uid": "1"}, {"unix_gid": "1"}, True, id="other-selectors"),
        pytest.param({"unix_uid": "1", "unix_gid": "1"}, {"unix_uid": "2", "unix_path": "/a"}, False, id="one-apart"),
        pytest.param({"unix_uid": "1", "unix_gid": "1"}, {"unix_uid": "1", "unix_path": "/a"}, True, id="none-apart"),
        pytest.param({"unix_supplementary-gid": "1"}, {"unix_supplementary-gid": "2"}, True, id="may-have-both"),
        pytest.param({"unix_path": "/a/b"}, {"unix_basename": "b"}, True, id="the-path-has-the-name"),
        pytest.param({"unix_path": "/a/b"}, {"unix_basename": "c"}, False, id="the-path-has-another-name"),
        pytest.param({"unix_path": "/a/*"}, {"unix_basename": "c*"}, True, id="a-folder-may-hold-the-name"),
        pytest.param({"systemd_unit": "a.service"}, {"k8s_sa": "a"}, False, id="no-unit-in-a-container"),
        pytest.param({"unix_uid": "1"}, {"unix_gid": "1", "unix_uid": "1"}, False, id="one-is-more-specific"),
    ],
)
def test_overlaps_are_found_when_the_file_is_read(
    one: dict[str, str], other: dict[str, str], *, expected: bool
) -> None:
    found = RuleSet(rules=(rule("a", **one), rule("b", **other))).conflicts()
    assert [item.code for item in found] == (["LM1213"] if expected else [])


_SELECTORS = st.builds(
    Selector, name=st.just("x"), value=st.text(alphabet="ab", max_size=3), prefix=st.booleans()
) | st.builds(Selector, name=st.just("y"), value=st.text(alphabet="ab", max_size=2), prefix=st.booleans())


@given(st.lists(st.lists(_SELECTORS, min_size=1, max_size=2, unique_by=lambda item: item.name), max_size=16))
def test_the_overlaps_found_are_those_that_comparing_all_pairs_finds(matches: list[list[Selector]]) -> None:
    rules = [IdentityRule(id=f"r{place}", match=tuple(match), spiffe_id="/x") for place, match in enumerate(matches)]
    expected = [
        (one.id, other.id)
        for place, one in enumerate(rules)
        for other in rules[place + 1 :]
        if one.specificity == other.specificity and may_meet(one, other)
    ]
    found = RuleSet(rules=tuple(rules)).conflicts()
    assert [(item.facts["other"], item.facts["rule"]) for item in found] == expected


@given(st.text(alphabet="ab", max_size=3), st.text(alphabet="ab", max_size=3), st.booleans(), st.booleans())
def test_selectors_overlap_exactly_when_some_value_fits_both(one: str, other: str, star: bool, second: bool) -> None:
    import itertools

    mine = Selector(name="x", value=one, prefix=star)
    theirs = Selector(name="x", value=other, prefix=second)
    values = ["".join(letters) for size in range(5) for letters in itertools.product("ab", repeat=size)]
    meets = any(mine.matches({"x": (value,)}) and theirs.matches({"x": (value,)}) for value in values)
    assert mine.overlaps(theirs) is meets
    assert theirs.overlaps(mine) is meets


def test_explain_says_of_every_rule_why() -> None:
    rules = RuleSet(rules=(rule("a", unix_uid="1002"), rule("b", unix_uid="1001", unix_path="/opt/*")))
    found = rules.explain(PROCESS)
    assert [(item.rule, item.matched) for item in found] == [("b", True), ("a", False)]
    assert found[1].reason == "unix:uid is 1001, not 1002"


def test_fill_leaves_text_without_braces_alone() -> None:
    assert fill("/a/b", {}, is_path=True) == "/a/b"


def test_an_entitlement_carries_what_the_rule_says() -> None:
    full = IdentityRule(
        id="a", match=(Selector.parse("unix:uid", "1001"),), spiffe_id="/x", ttl=dt.timedelta(minutes=5), hint="main",
        direct=True,
    )  # fmt: skip
    found = RuleSet(rules=(full,)).entitle(PROCESS, DOMAIN)
    assert isinstance(found, Entitlement)
    assert (found.ttl, found.hint, found.direct, found.container_bound) == (dt.timedelta(minutes=5), "main", True, True)


def test_the_same_facts_find_the_same_and_other_facts_their_own() -> None:
    rules = RuleSet(rules=(IdentityRule(id="u", match=(Selector.parse("unix:uid", "*"),), spiffe_id="/u/{unix:uid}"),))
    domain, other = TrustDomain("a.test"), TrustDomain("b.test")
    first = rules.entitle({"unix:uid": ("1",)}, domain)
    assert rules.entitle({"unix:uid": ("1",)}, domain) is first
    assert rules.entitle({"unix:uid": ("2",)}, domain) != first
    assert rules.entitle({"unix:uid": ("1",)}, other) != first
    assert rules.entitle({"unix:uid": ("1",), "unix:gid": ("1",)}, domain) == first
    # what is known is bounded
    for number in range(3 * 16_384):
        rules.entitle({"unix:uid": (str(number),)}, domain)
    assert len(rules._known) <= 16_384


@pytest.mark.parametrize("template", ["/{unix:basename}", "/{unix:basename}/agent/n1"])
def test_no_facts_give_one_of_limens_own_identities(template: str) -> None:
    assert entitle(rule("a", template, unix_uid="1001"), facts={**PROCESS, "unix:basename": ("limen",)}) == "LM1231"
