import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.clienthello import MAX_HELLO_BYTES, early_name, server_name
from mesh.problems import Invalid


def hello(name: str | None) -> bytes:
    """The first bytes of OpenSSL's own client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    inner, outer = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(inner, outer, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outer.read()


def record(data: bytes) -> bytes:
    return b"\x16\x03\x01" + len(data).to_bytes(2) + data


def made(*extensions: bytes) -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    joined = b"".join(extensions)
    body += len(joined).to_bytes(2) + joined
    return record(b"\x01" + len(body).to_bytes(3) + body)


def named(name: bytes, kind: bytes = b"\0") -> bytes:
    entry = kind + len(name).to_bytes(2) + name
    names = len(entry).to_bytes(2) + entry
    return b"\0\0" + len(names).to_bytes(2) + names


def test_a_real_clients_name_is_read_as_soon_as_it_is_complete_and_not_before() -> None:
    data = hello("api.Example.com")
    assert server_name(data) == "api.example.com"
    assert {server_name(data[:size]) for size in range(len(data))} == {None}
    assert server_name(data + b"more") == "api.example.com"


def test_a_watcher_reads_the_name_as_soon_as_it_is_there_and_asks_for_no_more() -> None:
    data = hello("api.Example.com")
    end = data.index(b"api.Example.com") + len("api.Example.com")
    assert {early_name(data[:size]) for size in range(end)} == {None}
    assert {early_name(data[:size]) for size in range(end, len(data) + 1)} == {"api.example.com"}
    body = data[5:]
    split = b"".join(record(body[at : at + 40]) for at in range(0, len(body), 40))
    assert early_name(split) == "api.example.com"


@pytest.mark.parametrize(
    "data", [hello(None), made(), b"", b"GET / HTTP/1.1\r\n", record(b"\x02" + bytes(60)), made(named(b"a\xff.test"))]
)
def test_a_watcher_has_no_name_where_there_is_none(data: bytes) -> None:
    assert early_name(data) is None


@given(st.binary(max_size=300))
def test_a_watcher_takes_any_bytes(data: bytes) -> None:
    early_name(data)
    early_name(b"\x16\x03\x01" + len(data).to_bytes(2) + data)


def test_a_client_that_names_nobody_has_an_empty_name() -> None:
    assert server_name(hello(None)) == ""
    assert server_name(made()) == ""


def test_a_hello_in_many_records_is_one() -> None:
    body = hello("api.example.com")[5:]
    split = b"".join(record(body[at : at + 40]) for at in range(0, len(body), 40))
    assert server_name(split) == "api.example.com"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x02\x01\0\x01x",
        record(b"\x02\0\0\0"),
        record(b"\x01\0\xff\xff"),
        record(b""),
        made(named(b"a.test"), named(b"b.test")),
        made(named(b"a.test", b"\x01")),
        made(named(b"")),
        made(named(b"\xff.test")),
        made(b"\0\0\0\x09\0\x01"),
        b"\x15",
    ],
    ids=["http", "version", "other-message", "too-long", "empty", "two", "kind", "no-name", "bytes", "cut", "alert"],
)
def test_what_is_no_hello_or_says_two_things_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM3231"):
        server_name(data)


def test_what_never_ends_is_refused() -> None:
    with pytest.raises(Invalid, match="LM3231"):
        server_name(b"\x16\x03\x01\xff\xff\x01\0\x3f\xff" + bytes(2 * MAX_HELLO_BYTES))


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    data = made(named(b"a.test"))
    for attempt in (noise, data[:at] + noise, data[:at] + noise + data[at:]):
        try:
            found = server_name(attempt)
        except Invalid:
            continue
        assert found is None or found.isascii()
