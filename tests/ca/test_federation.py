import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca import federation
from ca.federation import Profile, Relationship, Standing, accept, after, check_url, follow, interval, is_stale, relate
from mesh.bundle import TrustBundle
from mesh.problems import Problem
from mesh.spiffe import SpiffeId, TrustDomain
from tests.pki import NOW, Pki

OWN = TrustDomain.parse("a.test")
B = TrustDomain.parse("b.test")
URL = "https://b.test/.well-known/spiffe-bundle"
PKI = Pki("b.test")


def code(work: object, *arguments: object, **named: object) -> str:
    with pytest.raises(Problem) as found:
        work(*arguments, **named)  # type: ignore[operator]
    return found.value.code


def bundle(sequence: int | None = None, hint: int | None = None, *, pki: Pki = PKI) -> TrustBundle:
    return TrustBundle(trust_domain=B, x509_authorities=(pki.root.der,), sequence=sequence, refresh_hint=hint)


def test_a_relationship_is_read_in_full() -> None:
    web = relate(OWN, trust_domain="b.test", url=URL, profile="https_web")
    assert web == Relationship(trust_domain=B, url=URL, profile=Profile.HTTPS_WEB)
    spiffe = relate(OWN, trust_domain="b.test", url=URL, profile="https_spiffe", endpoint_id="spiffe://b.test/x")
    assert spiffe.is_self_serving
    other = relate(OWN, trust_domain="b.test", url=URL, profile="https_spiffe", endpoint_id="spiffe://c.test/x")
    assert not other.is_self_serving
    assert not web.is_self_serving


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"trust_domain": "a.test"}, "LM1500", id="our-own"),
        pytest.param({"trust_domain": "B.test"}, "LM1500", id="upper-case"),
        pytest.param({"trust_domain": ""}, "LM1500", id="no-name"),
        pytest.param({"url": "http://b.test/"}, "LM1501", id="http"),
        pytest.param({"profile": "https"}, "LM1502", id="unknown-profile"),
        pytest.param({"endpoint_id": "spiffe://b.test/x"}, "LM1502", id="web-with-an-id"),
        pytest.param({"web_roots": "nothing"}, "LM1502", id="roots-that-are-none"),
        pytest.param({"profile": "https_spiffe"}, "LM1502", id="spiffe-without-an-id"),
        pytest.param({"profile": "https_spiffe", "endpoint_id": "spiffe://b.test"}, "LM1502", id="id-without-a-path"),
        pytest.param({"profile": "https_spiffe", "endpoint_id": "https://b.test/x"}, "LM1502", id="id-that-is-none"),
        pytest.param(
            {"profile": "https_spiffe", "endpoint_id": "spiffe://b.test/x", "web_roots": PKI.root.pem.decode()},
            "LM1502",
            id="spiffe-with-web-roots",
        ),
    ],
)
def test_what_is_not_complete_is_refused(change: dict[str, str], expected: str) -> None:
    given_: dict[str, str] = {"trust_domain": "b.test", "url": URL, "profile": "https_web", **change}
    assert code(relate, OWN, **given_) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://b.test", ("b.test", 443, "/")),
        ("https://b.test:8443/x?y=z", ("b.test", 8443, "/x?y=z")),
        ("https://[::1]:8443/x", ("::1", 8443, "/x")),
    ],
)
def test_a_url_is_read(url: str, expected: tuple[str, int, str]) -> None:
    assert check_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://b.test/", "https:///x", "https://u@b.test/", "https://u:p@b.test/", "https://@b.test/", "//b.test/",
        "https://b.test/#x", "https://b.test:0/", "https://b.test:99999/", "https://b.test/ x",
        "https://b.test/\r\nX: y", "https://bé.test/", "https://b.test/\\x", "spiffe://b.test/x", "https://[::1/",
        "https://b.test/" + "x" * 2048, "",
    ],
)  # fmt: skip
def test_a_url_that_breaks_a_rule_is_refused(url: str) -> None:
    assert code(check_url, url) == "LM1501"


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(Problem) as found:
        check_url("https://me:secret@b.test/")
    assert "secret" not in str(found.value)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/other", "https://b.test/other"),
        ("https://c.test/x", "https://c.test/x"),
        ("x", "https://b.test/.well-known/x"),
    ],
)
def test_a_redirect_leads_on(location: str, expected: str) -> None:
    assert follow(URL, location) == expected


@pytest.mark.parametrize("location", ["http://b.test/", "https://u@c.test/", "//u@c.test/", "ftp://x/", "https://[/"])
def test_a_redirect_to_what_no_endpoint_may_be_is_refused(location: str) -> None:
    assert code(follow, URL, location) == "LM1501"


@given(st.text(max_size=60))
def test_no_redirect_leads_out_of_the_rules(location: str) -> None:
    try:
        found = follow(URL, location)
    except Problem as problem:
        assert problem.code == "LM1501"
    else:
        assert found.startswith("https://")
        assert "@" not in found.split("/")[2]


def test_a_first_bundle_is_a_document_or_pem() -> None:
    assert federation.first_bundle(B, bundle(3).to_json()) == bundle(3)
    assert federation.first_bundle(B, PKI.root.pem) == bundle()


@pytest.mark.parametrize(
    "data", [b'{"keys": []}', b"-----BEGIN CERTIFICATE-----\nAA==\n", b"-----BEGIN X-----"], ids=str
)
def test_a_first_bundle_holds_something(data: bytes) -> None:
    assert code(federation.first_bundle, B, data) == "LM1505"


def test_bundles_are_put_in_order_by_their_number() -> None:
    new = Pki("b.test")
    assert accept(None, bundle(1))
    assert accept(bundle(1), bundle(2, pki=new))
    assert accept(bundle(None), bundle(None, pki=new))
    assert accept(bundle(None), bundle(7, pki=new))
    # the same keys: no news, or only a new number
    assert not accept(bundle(1), bundle(1))
    assert accept(bundle(1), bundle(2))
    # an empty bundle that is newer revokes everything
    assert accept(bundle(1), TrustBundle(trust_domain=B, sequence=2))


def test_what_cannot_be_newer_replaces_nothing() -> None:
    new = Pki("b.test")
    assert code(accept, bundle(5), bundle(4)) == "LM1506"
    assert code(accept, bundle(5), bundle(4, pki=new)) == "LM1506"
    assert code(accept, bundle(5), bundle(5, pki=new)) == "LM1507"
    assert code(accept, bundle(5), bundle(None, pki=new)) == "LM1507"


@given(st.lists(st.tuples(st.none() | st.integers(0, 9), st.integers(0, 2)), max_size=12))
def test_the_number_of_what_is_held_never_goes_back(served: list[tuple[int | None, int]]) -> None:
    held, highest = None, -1
    for sequence, which in served:
        found = bundle(sequence, pki=_PKIS[which])
        try:
            if accept(held, found):
                held = found
        except Problem:
            continue
        assert held is not None
        number = -1 if held.sequence is None else held.sequence
        assert number >= highest
        highest = number


_PKIS = (PKI, Pki("b.test"), Pki("b.test"))


@pytest.mark.parametrize(("hint", "seconds"), [(None, 300), (60, 60), (0, 5), (10**9, 86_400), (300, 300)], ids=str)
def test_polls_at_the_hint_within_bounds(hint: int | None, seconds: int) -> None:
    assert interval(bundle(1, hint)) == dt.timedelta(seconds=seconds)
    assert interval(None) == dt.timedelta(seconds=300)


def test_a_failure_keeps_the_bundle_and_waits_as_long_as_a_success() -> None:
    start = Standing(next_poll=NOW, bundle=bundle(1, 100))
    good = after(start, NOW, chance=0.5, bundle=bundle(2, 100))
    assert (good.bundle, good.fetched, good.failures) == (bundle(2, 100), NOW, 0)
    later = NOW + dt.timedelta(seconds=100)
    assert good.next_poll == later
    bad = after(good, later, chance=0.5, bundle=None, code="LM1508", reason="x")
    assert (bad.bundle, bad.fetched, bad.failures, bad.code) == (bundle(2, 100), NOW, 1, "LM1508")
    assert bad.next_poll == later + dt.timedelta(seconds=100)
    assert after(bad, later, chance=0.5, bundle=None, code="LM1508", reason="x").failures == 2
    assert after(bad, later, chance=0.5, bundle=bundle(2, 100)).failures == 0


@given(st.floats(0, 1, exclude_max=True))
def test_polls_are_spread_by_a_tenth(chance: float) -> None:
    found = after(Standing(next_poll=NOW), NOW, chance=chance, bundle=bundle(1, 100))
    assert dt.timedelta(seconds=90) <= found.next_poll - NOW <= dt.timedelta(seconds=110)


def test_a_bundle_is_stale_after_three_intervals_without_a_word() -> None:
    found = after(Standing(next_poll=NOW), NOW, chance=0.5, bundle=bundle(1, 100))
    assert not is_stale(found, NOW + dt.timedelta(seconds=300))
    assert is_stale(found, NOW + dt.timedelta(seconds=301))
    assert is_stale(Standing(next_poll=NOW), NOW)


def test_an_endpoint_is_proved_by_the_bundle_of_its_own_domain() -> None:
    own = TrustBundle(trust_domain=OWN, x509_authorities=(PKI.root.der,))
    self_serving = _spiffe("spiffe://b.test/x")
    assert federation.verifying_bundle(self_serving, own, {B: bundle(2)}) == bundle(2)
    assert code(federation.verifying_bundle, self_serving, own, {}) == "LM1511"
    assert code(federation.verifying_bundle, self_serving, own, {B: TrustBundle(trust_domain=B)}) == "LM1511"
    third = TrustDomain.parse("c.test")
    held = {B: bundle(2), third: TrustBundle(trust_domain=third, x509_authorities=(PKI.root.der,))}
    assert federation.verifying_bundle(_spiffe("spiffe://c.test/x"), own, held) == held[third]
    assert federation.verifying_bundle(_spiffe("spiffe://a.test/x"), own, held) == own


def test_an_endpoint_shows_exactly_the_configured_identity() -> None:
    wanted = _spiffe("spiffe://b.test/x")
    assert federation.check_endpoint([PKI.leaf("/x").der], wanted, bundle(), NOW).spiffe_id == wanted.endpoint_id
    assert code(federation.check_endpoint, [PKI.leaf("/y").der], wanted, bundle(), NOW) == "LM1510"
    assert code(federation.check_endpoint, [Pki("b.test").leaf("/x").der], wanted, bundle(), NOW) == "LM1510"
    assert code(federation.check_endpoint, [], wanted, bundle(), NOW) == "LM1510"


def _spiffe(endpoint: str) -> Relationship:
    return Relationship(trust_domain=B, url=URL, profile=Profile.HTTPS_SPIFFE, endpoint_id=SpiffeId.parse(endpoint))
