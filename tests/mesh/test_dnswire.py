import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import dnswire as dns

ASKED = dns.query("_acme-challenge.a.test", dns.TXT, 7)


def answer(*texts: str, number: int = 7, status: int = 0) -> bytes:
    rows = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", dns.TXT, 1, 1, len(text) + 1) + bytes([len(text)]) + text.encode()
        for text in texts
    )
    return struct.pack(">6H", number, 0x8180 | status, 1, len(texts), 0, 0) + ASKED[12:] + rows


def test_an_answer_is_read() -> None:
    data, is_cut, status = dns.answers(answer("one", "two"), ASKED, dns.TXT)
    assert data == [b"\x03one", b"\x03two"]
    assert (is_cut, status) == (False, 0)


@pytest.mark.parametrize("message", [answer("x", number=8), ASKED, answer("x").replace(b"test", b"evil")])
def test_an_answer_to_another_question_is_not_believed(message: bytes) -> None:
    with pytest.raises(ValueError):
        dns.answers(message, ASKED, dns.TXT)


def test_a_name_that_points_to_itself_ends() -> None:
    loop = struct.pack(">6H", 7, 0x8180, 1, 0, 0, 0) + b"\xc0\x0c"
    with pytest.raises(ValueError):
        dns.answers(loop, ASKED, dns.TXT)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    try:
        dns.answers(answer("x")[:12] + data, ASKED, dns.TXT)
    except ValueError:
        pass


def overheard(name: str, kind: int, *records: tuple[int, int, bytes], status: int = 0) -> bytes:
    """An answer as a resolver gives it: each record's owner is what the one before it leads to."""
    question = dns.query(name, kind, 9)
    body, owner = b"", b"\xc0\x0c"
    for found, ttl, data in records:
        at = len(question) + len(body) + len(owner) + 10
        body += owner + struct.pack(">HHIH", found, 1, ttl, len(data)) + data
        if found == dns.CNAME:
            owner = struct.pack(">H", 0xC000 | at)
    return struct.pack(">6H", 9, 0x8180 | status, 1, len(records), 0, 0) + question[12:] + body


def labels(name: str) -> bytes:
    return dns.query(name, 0, 0)[12:-4]


def test_an_overheard_answer_has_the_asked_name_and_the_addresses_at_the_end_of_its_aliases() -> None:
    one, two = bytes([203, 0, 113, 7]), bytes([203, 0, 113, 8])
    message = overheard(
        "WWW.a.test",
        dns.A,
        (dns.CNAME, 60, labels("b.test")),
        (dns.CNAME, 60, labels("c.test")),
        (dns.A, 300, one),
        (dns.A, 5, two),
    )
    assert dns.heard(message) == ("www.a.test", [(one, 300), (two, 5)])
    assert dns.heard(overheard("a.test", dns.AAAA, (dns.AAAA, 1, bytes(16)))) == ("a.test", [(bytes(16), 1)])


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(overheard("a.test", dns.A, (dns.AAAA, 1, bytes(16))), id="another-kind"),
        pytest.param(overheard("a.test", dns.A, (dns.A, 1, bytes(3))), id="no-address"),
        pytest.param(overheard("a.test", dns.A, (dns.A, 1, bytes(4)), status=3), id="an-error"),
        pytest.param(overheard("a.test", dns.TXT, (dns.TXT, 1, b"x")), id="a-question-for-texts"),
        pytest.param(overheard("a.test", dns.A, (dns.A, 1, bytes(4)), status=0x0200), id="cut"),
    ],
)
def test_an_overheard_answer_without_addresses_names_nobody(message: bytes) -> None:
    assert dns.heard(message) == ("a.test", [])


@pytest.mark.parametrize("message", [ASKED, b"", bytes(12), answer("x")[:30]])
def test_what_is_no_answer_is_not_heard(message: bytes) -> None:
    with pytest.raises(ValueError):
        dns.heard(message)


@given(st.binary(max_size=200))
def test_any_bytes_are_heard_or_refused(data: bytes) -> None:
    try:
        dns.heard(overheard("a.test", dns.A)[:7] + b"\x05" + data)
    except ValueError:
        pass
