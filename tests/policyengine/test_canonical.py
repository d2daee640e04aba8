"""The canonical form: what is one path, what is refused, and what patterns match."""

import itertools
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.canonical import (
    Ambiguous,
    CanonicalPath,
    HostPattern,
    Malformed,
    PathPattern,
    PatternError,
    canonical_host,
    canonical_path,
    canonical_segments,
    folded,
    literal_text,
    plain_segments,
)

CANONICAL = [
    ("A01-parent", "/x/../admin", "/admin"),
    ("A01-dot", "/./admin", "/admin"),
    ("A01-encoded-dots", "/api/%2e%2e/admin", "/admin"),
    ("A01-mixed-case-encoded-dots", "/api/.%2E/admin", "/admin"),
    ("A02-double-slash", "//admin", "/admin"),
    ("A02-triple-slash", "///admin", "/admin"),
    ("A02-slashes-then-parent", "/api//../admin", "/admin"),
    ("A03-encoded-letter", "/%61dmin", "/admin"),
    ("A04-query", "/admin?x", "/admin?x"),
    ("A04-empty-query", "/admin?", "/admin?"),
    ("A04-dots-in-query", "/api/ok?/../admin", "/api/ok?/../admin"),
    ("A09-star", "/admin/*", "/admin/*"),
    ("A09-encoded-star", "/admin/%2a", "/admin/*"),
    ("A13-case-is-kept", "/Admin", "/Admin"),
    ("root", "/", "/"),
    ("trailing-slash", "/a/", "/a/"),
    ("trailing-slashes", "/a//", "/a/"),
    ("trailing-dot-segment", "/a/.", "/a/"),
    ("trailing-parent", "/a/b/..", "/a/"),
    ("parent-of-first", "/a/..", "/"),
    ("utf8-raw-bytes", "/\xc3\xa9", "/%C3%A9"),
    ("utf8-lower-hex", "/%c3%a9", "/%C3%A9"),
    ("space-inside", "/a%20b", "/a%20b"),
    ("sub-delims", "/a%21b", "/a!b"),
    ("tilde", "/%7euser", "/~user"),
    ("query-verbatim", "/a?b=%2f;%3b&c=\xff", "/a?b=%2f;%3b&c=\xff"),
]

AMBIGUOUS = [
    ("A05-encoded-slash", "/admin%2f"),
    ("A05-encoded-backslash", "/admin%5c"),
    ("A05-encoded-slashes-and-dots", "/api%2f..%2fadmin"),
    ("A05-backslash", "/\\admin"),
    ("A06-double-encoding", "/%2561dmin"),
    ("A06-double-encoded-dots", "/api/%252e%252e/admin"),
    ("A07-fragment", "/admin#x"),
    ("A07-fragment-after-query", "/a?b#x"),
    ("A08-parameter", "/admin;x=1"),
    ("A08-parameter-slash", "/admin;/x"),
    ("A08-empty-parameter", "/;/admin"),
    ("A08-dots-parameter", "/x/..;/admin"),
    ("A08-encoded-dots-parameter", "/x/%2e%2e;/admin"),
    ("A10-no-slash", "admin"),
    ("A10-empty", ""),
    ("A10-asterisk", "*"),
    ("A10-absolute", "http://x/admin"),
    ("A14-trailing-space", "/admin%20"),
    ("A14-trailing-tab", "/admin%09"),
    ("A14-trailing-dots", "/admin.."),
    ("A14-trailing-dot", "/admin%2e"),
    ("A14-nul", "/admin%00"),
    ("A14-encoded-semicolon", "/admin%3bx"),
    ("A14-encoded-question-mark", "/admin%3fx"),
    ("A14-overlong", "/%c0%afadmin"),
    ("A14-raw-byte", "/\xef"),
    ("leading-space", "/%20admin"),
    ("no-break-space", "/admin%c2%a0"),
    ("above-root", "/../admin"),
    ("above-root-late", "/a/../../admin"),
    ("encoded-hash", "/a%23b"),
    ("short-escape", "/a%4"),
    ("bad-escape", "/a%zz"),
    ("raw-control", "/a\x01b"),
    ("del", "/a%7f"),
    ("c1-control", "/a%c2%85b"),
    ("surrogate", "/%ed%a0%80"),
    ("beyond-bytes", "/\u20ac"),
    ("control-in-query", "/a?b\r\nc"),
    ("beyond-bytes-in-query", "/a?\u20ac"),
    ("too-long", "/" + "a" * 70_000),
]


@pytest.mark.parametrize(("raw", "target"), [case[1:] for case in CANONICAL], ids=[case[0] for case in CANONICAL])
def test_path_has_one_canonical_form(raw: str, target: str) -> None:
    found = canonical_path(raw)
    assert isinstance(found, CanonicalPath)
    assert found.target == target


@pytest.mark.parametrize("raw", [case[1] for case in AMBIGUOUS], ids=[case[0] for case in AMBIGUOUS])
def test_path_is_refused_when_two_programs_could_read_it_differently(raw: str) -> None:
    assert isinstance(canonical_path(raw), Ambiguous)


@pytest.mark.parametrize(
    ("raw", "segments"),
    [
        pytest.param("/Admin/X", ("admin", "x"), id="A13-ascii"),
        pytest.param("/%41dmin//./X/", ("admin", "x", ""), id="A13-encoded"),
        pytest.param("/%C3%89", ("\u00e9",), id="A13-latin"),
        pytest.param("/%CE%91%CE%A3", ("\u03b1\u03c3",), id="A13-sigma-at-the-end-of-a-word"),
        pytest.param("/%D0%96", ("\u0436",), id="A13-cyrillic"),
        pytest.param("/%E6%97%A5", ("\u65e5",), id="A13-no-case-at-all"),
    ],
)
def test_segments_are_folded_for_a_service_that_ignores_case(raw: str, segments: tuple[str, ...]) -> None:
    found = canonical_path(raw, "insensitive")
    assert isinstance(found, CanonicalPath)
    assert found.segments == segments
    exact = canonical_path(raw)
    assert isinstance(exact, CanonicalPath)
    assert found.target == exact.target


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("/%E2%84%AA", id="A13-kelvin-sign"),
        pytest.param("/%C4%B0", id="A13-i-with-dot"),
        pytest.param("/adm%C4%B1n", id="A13-i-without-dot"),
        pytest.param("/%C5%BF", id="A13-long-s"),
        pytest.param("/%C3%9F", id="A13-sharp-s"),
        pytest.param("/%CF%82", id="A13-final-sigma"),
        pytest.param("/%EF%AC%81", id="A13-ligature"),
    ],
)
def test_letters_whose_case_is_ambiguous_are_refused_where_case_is_ignored(raw: str) -> None:
    assert isinstance(canonical_path(raw, "insensitive"), Ambiguous)
    assert isinstance(canonical_path(raw), CanonicalPath)


@given(st.text())
def test_folding_is_idempotent_and_sees_every_spelling_alike(text: str) -> None:
    found = folded((text,))
    if isinstance(found, Ambiguous):
        assert not text.isascii()
        return
    assert folded(found) == found
    for spelling in (text.upper(), text.lower(), text.swapcase()):
        other = folded((spelling,))
        # whoever changes the case of a whole text looks at a sigma's place in it
        assert other == found or "\u03c2" in spelling


_PIECES = st.sampled_from(["/", "a", ".", "..", "%2e", "%61", "%2F", "%C3%A9", ";", "?", "%20", " ", "\xe9", "%", "*"])


@given(st.one_of(st.text(), st.lists(_PIECES, max_size=12).map(lambda parts: "/" + "".join(parts))))
def test_canonical_path_is_idempotent_and_never_raises(raw: str) -> None:
    found = canonical_path(raw)
    if isinstance(found, CanonicalPath):
        again = canonical_path(found.target)
        assert again == found
        assert ".." not in found.segments
        assert "" not in found.segments[:-1]


# INVARIANT: who asks for the segments alone is told the same.
@given(st.text(alphabet="/ab.-~!$&'()*+,=:@%2fF?#;\\ \x00\x7f\xff\u0100\xe9", max_size=14))
def test_segments_alone_are_those_of_the_canonical_path(text: str) -> None:
    for raw in (text, f"/{text}"):
        found = canonical_path(raw)
        assert canonical_segments(raw) == (found if isinstance(found, Ambiguous) else found.segments)


@pytest.mark.parametrize("raw", [item[1] for item in CANONICAL], ids=[item[0] for item in CANONICAL])
def test_segments_alone_of_what_has_a_canonical_form(raw: str) -> None:
    found = canonical_path(raw)
    assert isinstance(found, CanonicalPath)
    assert canonical_segments(raw) == found.segments


def test_exactly_the_targets_that_are_canonical_as_they_stand_have_plain_segments() -> None:
    for count in range(6):
        for letters in itertools.product("/.a?%", repeat=count):
            raw = "/" + "".join(letters)
            found = canonical_path(raw)
            is_plain = isinstance(found, CanonicalPath) and found.target == raw
            assert plain_segments(raw) == (found.segments if is_plain else None), raw


def test_a_target_that_is_too_long_has_no_segments() -> None:
    assert isinstance(canonical_segments("/" + "a" * 70_000), Ambiguous)
    assert plain_segments("/" + "a" * 70_000) is None


@given(st.text())
def test_canonical_host_is_idempotent_and_never_raises(raw: str) -> None:
    found = canonical_host(raw)
    if isinstance(found, str):
        assert canonical_host(found) == found


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        pytest.param("DB.corp.test", "db.corp.test", id="A11-case"),
        pytest.param("db.corp.test:8443", "db.corp.test", id="A11-port"),
        pytest.param("db.corp.test:", "db.corp.test", id="A11-empty-port"),
        pytest.param("db.corp.test.", "db.corp.test", id="A11-final-dot"),
        pytest.param("db.corp.test.:80", "db.corp.test", id="A11-final-dot-and-port"),
        pytest.param("[0:0::1]:80", "[::1]", id="A11-ipv6"),
        pytest.param("xn--bcher-kva.example", "xn--bcher-kva.example", id="A11-punycode"),
        pytest.param("127.0.0.1:80", "127.0.0.1", id="ipv4"),
    ],
)
def test_host_has_one_canonical_form(raw: str, host: str) -> None:
    assert canonical_host(raw) == host


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "a..b",
        ".a",
        "a b",
        "a/b",
        "user@a",
        "::1",
        "[::1",
        "[x]",
        "[fe80::1%25eth0]",
        "a:b",
        "b\xfccher",
        "-a",
        "a" * 300,
    ],
)
def test_host_is_malformed_when_it_is_no_name_and_no_address(raw: str) -> None:
    assert isinstance(canonical_host(raw), Malformed)


def test_two_hosts_in_one_are_ambiguous() -> None:
    assert isinstance(canonical_host("a.test,b.test"), Ambiguous)


UUID = "123e4567-e89b-12d3-a456-426614174000"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/orders", "/orders", True),
        ("/orders", "/orders/", False),
        ("/orders", "/ordersx", False),
        ("/admin/**", "/admin/", True),
        ("/admin/**", "/admin", False),
        ("/admin/**", "/admin/a/b", True),
        ("/admin/**", "/administrator", False),
        ("/**", "/", True),
        ("/**", "/a/b/", True),
        ("/", "/", True),
        ("/", "/a", False),
        ("/a/{x}/b", "/a/1/b", True),
        ("/a/{x}/b", "/a/1/2/b", False),
        ("/a/{x}", "/a/", False),
        ("/a/{x}", "/a", False),
        ("/a/{x}/**", "/a/1/", True),
        ("/a/{x}/**", "/a/1", False),
        ("/o/{id:uuid}/**", f"/o/{UUID}/x", True),
        ("/o/{id:uuid}/**", "/o/1/x", False),
        ("/o/{id:int}", "/o/42", True),
        ("/o/{id:int}", "/o/4x", False),
        ("/o/{id:int}", "/o/%D9%A4", False),
        ("/o/{id:decimal}", "/o/-4.25", True),
        ("/o/{id:decimal}", "/o/4.", False),
        ("/o/{id:hex}", "/o/DeadBeef", True),
        ("/o/{id:hex}", "/o/xyz", False),
        ("/o/{id:date}", "/o/2026-11-24", True),
        ("/o/{id:date}", "/o/2026-13-24", False),
        ("/o/{id:ulid}", "/o/01ARZ3NDEKTSV4RRFFQ69G5FAV", True),
        ("/o/{id:ulid}", "/o/81ARZ3NDEKTSV4RRFFQ69G5FAV", False),
        ("/o/{id:token}", "/o/abc_DEF-1.2~", True),
        ("/o/{id:token}", "/o/a%20b", False),
        ("/a b", "/a%20b", True),
        ("/a%20b", "/a%20b", True),
        ("/%C3%A9", "/\xc3\xa9", True),
        ("/é", "/%c3%a9", True),
        ("/%2A", "/*", True),
        ("/pkg.Service/Method", "/pkg.Service/Method", True),
        ("/pkg.Service/Method", "/pkg.Service/method", False),
    ],
)
def test_path_pattern(pattern: str, path: str, expected: bool) -> None:
    found = canonical_path(path)
    if isinstance(found, Ambiguous):
        assert not expected
        return
    assert PathPattern.parse(pattern).matches(found.segments) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "/a/*",
        "/a*",
        "/**/b",
        "/a//b",
        "/a/../b",
        "/./a",
        "/a;b",
        "/a?b",
        "/a#b",
        "/{x:what}",
        "/a{x}",
        "/{}",
        "/a.",
        "/%2f",
        "/%",
        "//**",
    ],
)
def test_path_pattern_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        PathPattern.parse(text)


@pytest.mark.parametrize(
    "text", ["/[a-z]+", "/a|b", "/^admin", "/.+", "/(a+)+", "/(a+)", "/(a)$", "/admin$", "/(x|y)/**", "/v[12]/{id}"]
)
def test_what_looks_like_a_regular_expression_is_no_path(text: str) -> None:
    with pytest.raises(PatternError, match="regular expression"):
        PathPattern.parse(text)


@pytest.mark.parametrize("text", ["/c++", "/Products(1)", "/$metadata", "/$", "/a+b", "/%5Ba-z%5D%2B", "/admin%24"])
def test_what_only_has_some_of_its_characters_is_one(text: str) -> None:
    path = canonical_path(text)
    assert isinstance(path, CanonicalPath)
    assert PathPattern.parse(text).matches(path.segments)


# INVARIANT: any segment of a canonical path has a spelling that a pattern reads as this segment alone.
@given(st.text(alphabet="/a.-$&'()+,=:@*{}[]^|%%2fé ", max_size=14))
def test_a_literal_has_a_text_that_is_read_as_that_literal(text: str) -> None:
    path = canonical_path("/" + quote(text, safe="/%"))
    if isinstance(path, CanonicalPath):
        found = PathPattern.parse("/" + "/".join(map(literal_text, path.segments)))
        assert [(place.type, place.literal) for place in found.segments] == [
            ("literal", word) for word in path.segments
        ]


@given(st.text(max_size=30))
def test_patterns_raise_only_their_error(text: str) -> None:
    for parse in (PathPattern.parse, HostPattern.parse):
        try:
            parse(text)
        except PatternError:
            continue


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("db.corp.test", "db.corp.test", True),
        ("*.corp.test", "db.corp.test", True),
        ("*.corp.test", "a.db.corp.test", False),
        ("*.corp.test", "corp.test", False),
        ("*.corp.test", "dbcorp.test", False),
    ],
)
def test_host_pattern(pattern: str, host: str, expected: bool) -> None:
    assert HostPattern.parse(pattern).matches(host) is expected


@pytest.mark.parametrize("text", ["DB.test", "db.test:80", "*", "*.*.test", "db.test.", "", "a,b"])
def test_host_pattern_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        HostPattern.parse(text)
