import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.spiffe import SpiffeId, SpiffeIdError, SpiffePattern, TrustDomain, check_path


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("http://td/p", id="ID-1-scheme"),
        pytest.param("Spiffe://td/p", id="ID-1-upper-case-scheme"),
        pytest.param("spiffe:/td/p", id="ID-1-one-slash"),
        pytest.param("", id="ID-1-empty"),
        pytest.param("spiffe://", id="ID-2-no-domain"),
        pytest.param("spiffe:///x", id="ID-2-empty-domain"),
        pytest.param("spiffe://td/p?x", id="ID-3-query"),
        pytest.param("spiffe://td?x", id="ID-3-query-on-domain"),
        pytest.param("spiffe://td/p#f", id="ID-4-fragment"),
        pytest.param("spiffe://u@td/p", id="ID-5-userinfo"),
        pytest.param("spiffe://td:80/p", id="ID-6-port"),
        pytest.param("spiffe://td:/p", id="ID-6-empty-port"),
        pytest.param("spiffe://TD/p", id="ID-7-upper-case-host"),
        pytest.param("spiffe://%62ad/p", id="ID-9-encoded-host"),
        pytest.param("spiffe://[::1]/p", id="ID-10-ipv6"),
        pytest.param("spiffe://td/%61", id="ID-11-encoded-path"),
        pytest.param("spiffe://td//p", id="ID-12-empty-segment"),
        pytest.param("spiffe://td/a//b", id="ID-12-empty-segment-inside"),
        pytest.param("spiffe://td/./p", id="ID-13-dot"),
        pytest.param("spiffe://td/a/..", id="ID-13-dots"),
        pytest.param("spiffe://td/", id="ID-14-slash-alone"),
        pytest.param("spiffe://td/p/", id="ID-14-trailing-slash"),
        pytest.param("spiffe://td/p q", id="ID-15-space"),
        pytest.param("spiffe://" + "a" * 256 + "/p", id="ID-19-domain-of-256"),
        pytest.param("spiffe://td/" + "a" * 2037, id="ID-17-2049-bytes"),
        pytest.param("spiffe://td\n/p", id="ID-8-newline"),
        pytest.param("spiffe://td/p\n", id="ID-15-newline"),
    ],
)
def test_a_text_that_breaks_a_rule_is_no_id(text: str) -> None:
    with pytest.raises(SpiffeIdError):
        SpiffeId.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("spiffe://1.2.3.4/p", id="ID-10-ipv4"),
        pytest.param("spiffe://a_b/p", id="ID-10-underscore"),
        pytest.param("spiffe://-/p", id="ID-10-dash"),
        pytest.param("spiffe://td/...", id="ID-13-three-dots"),
        pytest.param("spiffe://td/.x/..x", id="ID-13-leading-dots"),
        pytest.param("spiffe://td", id="ID-20-domain-itself"),
        pytest.param("spiffe://td/" + "a" * 2036, id="ID-17-2048-bytes"),
        pytest.param("spiffe://" + "a" * 255 + "/p", id="ID-19-domain-of-255"),
    ],
)
def test_legal_ids_round_trip(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize("code_point", range(256), ids=lambda n: f"ID-8-{n:02x}")
def test_host_characters(code_point: int) -> None:
    legal = chr(code_point) in "abcdefghijklmnopqrstuvwxyz0123456789.-_"
    if legal:
        TrustDomain.parse("a" + chr(code_point))
    else:
        with pytest.raises(SpiffeIdError):
            TrustDomain.parse("a" + chr(code_point))


@pytest.mark.parametrize("code_point", range(256), ids=lambda n: f"ID-15-{n:02x}")
def test_segment_characters(code_point: int) -> None:
    character = chr(code_point)
    legal = character.isascii() and (character.isalnum() or character in ".-_/")
    if legal:
        check_path(f"/a{character}b")
    else:
        with pytest.raises(SpiffeIdError):
            check_path(f"/a{character}b")


def test_ID_16_paths_are_case_sensitive() -> None:
    assert SpiffeId.parse("spiffe://td/A") != SpiffeId.parse("spiffe://td/a")


def test_segments_and_membership() -> None:
    found = SpiffeId.from_segments(TrustDomain("td"), "ns", "shop")
    assert (str(found), found.segments) == ("spiffe://td/ns/shop", ("ns", "shop"))
    assert found.is_member_of(TrustDomain("td"))
    assert not found.is_member_of(TrustDomain("other"))
    assert TrustDomain("td").id.segments == ()
    with pytest.raises(SpiffeIdError):
        SpiffeId.from_segments(TrustDomain("td"), "a/..")


@pytest.mark.parametrize(
    ("pattern", "candidate", "expected"),
    [
        ("spiffe://td/a", "spiffe://td/a", True),
        ("spiffe://td/a", "spiffe://td/a/b", False),
        ("spiffe://td/a/**", "spiffe://td/a/b", True),
        ("spiffe://td/a/**", "spiffe://td/a/b/c", True),
        ("spiffe://td/a/**", "spiffe://td/a", False),
        ("spiffe://td/ns/web/**", "spiffe://td/ns/web-evil/x", False),
        ("spiffe://td/**", "spiffe://td/x", True),
        ("spiffe://td/**", "spiffe://td", False),
        ("spiffe://td/**", "spiffe://other/x", False),
        ("spiffe://td/ns/web/**", "spiffe://td/foo/ns/web/x", False),
    ],
)
def test_patterns_end_at_segments(pattern: str, candidate: str, *, expected: bool) -> None:
    assert SpiffePattern.parse(pattern).matches(SpiffeId.parse(candidate)) is expected


@pytest.mark.parametrize("text", ["spiffe://td", "spiffe://td/*", "spiffe://td/a*", "spiffe://td/**/b", "spiffe://*/a"])
def test_globs_inside_are_no_patterns(text: str) -> None:
    with pytest.raises(SpiffeIdError):
        SpiffePattern.parse(text)


PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
IDS = st.builds(lambda domain, path: f"spiffe://{domain}{path}", st.sampled_from(["x", "y"]), PATHS)
PATTERNS = st.builds(lambda text, deep: SpiffePattern.parse(text + ("/**" if deep else "")), IDS, st.booleans())


@given(PATTERNS, PATTERNS, IDS)
def test_overlap_is_symmetric_and_follows_from_a_common_id(one: SpiffePattern, two: SpiffePattern, text: str) -> None:
    assert one.overlaps(two) == two.overlaps(one)
    found = SpiffeId.parse(text)
    if one.matches(found) and two.matches(found):
        assert one.overlaps(two)
    assert SpiffePattern.parse(str(one)) == one


@given(st.text(max_size=60))
def test_any_text_is_an_id_or_breaks_a_rule(text: str) -> None:
    try:
        assert str(SpiffeId.parse(text)) == text
    except SpiffeIdError:
        pass


@given(st.text(alphabet="/.aZ0_-é %", max_size=12))
def test_an_id_of_a_path_is_what_the_two_together_parse_to(path: str) -> None:
    """With `check_path`'s quick look for plain paths, segment by segment, the answer stays the same."""
    text = f"spiffe://td{path}"
    if path and not path.startswith("/"):
        with pytest.raises(SpiffeIdError):
            SpiffeId.with_path(TrustDomain("td"), path)
        return
    segments = path[1:].split("/") if path else []
    is_good = all(part not in {"", ".", ".."} and set(part) <= set(".aZ0_-") for part in segments)
    if not is_good:
        with pytest.raises(SpiffeIdError):
            SpiffeId.with_path(TrustDomain("td"), path)
        with pytest.raises(SpiffeIdError):
            SpiffeId.parse(text)
        return
    assert SpiffeId.with_path(TrustDomain("td"), path) == SpiffeId.parse(text)


def test_an_id_of_a_path_is_no_longer_than_any_other() -> None:
    longest = "/" + "a" * (2048 - len("spiffe://td/"))
    assert len(str(SpiffeId.with_path(TrustDomain("td"), longest))) == 2048
    with pytest.raises(SpiffeIdError, match="2048"):
        SpiffeId.with_path(TrustDomain("td"), longest + "a")
