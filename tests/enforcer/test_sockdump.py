import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.sockdump import Listed, dump_sockets, read_messages, read_socket


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_listeners_and_both_ends_of_a_connection_are_listed(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
        server.accept()[0],
        socket.socket(family, socket.SOCK_DGRAM) as listening,
        socket.socket(family, socket.SOCK_DGRAM) as asking,
    ):
        listening.bind((host, 0))
        asking.connect(listening.getsockname()[:2])
        here, there = client.getsockname()[:2], server.getsockname()[:2]
        of_udp, its_caller = listening.getsockname()[:2], asking.getsockname()[:2]
        nobody = ("::" if ":" in host else "0.0.0.0", 0)
        expected = {
            Listed("tcp", 10, there, nobody),
            Listed("tcp", 1, here, there),
            Listed("tcp", 1, there, here),
            Listed("udp", 7, of_udp, nobody),
            Listed("udp", 1, its_caller, of_udp),
        }
        assert expected - set(dump_sockets()) == set()


def test_more_sockets_than_one_answer_holds_are_all_listed() -> None:
    opened = []
    try:
        for _ in range(400):
            found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            opened.append(found)
            found.bind(("127.0.0.1", 0))
        ports = {found.getsockname()[1] for found in opened}
        assert ports - {item.local[1] for item in dump_sockets() if item.protocol == "udp"} == set()
    finally:
        for found in opened:
            found.close()


def message(body: bytes, size: int | None = None) -> bytes:
    return struct.pack("=IHHII", 16 + len(body) if size is None else size, 20, 2, 1, 0) + body


def test_messages_that_claim_what_is_not_there_end_the_reading() -> None:
    good = message(b"abcd")
    assert [body for *_, body in read_messages(good + good)] == [b"abcd", b"abcd"]
    for bad in (message(b"abcd", 4), message(b"abcd", 0), message(b"abcd", 1 << 31), good[:10]):
        assert [body for *_, body in read_messages(good + bad)] == [b"abcd"]


def test_a_socket_of_another_family_or_cut_short_is_none() -> None:
    assert read_socket(bytes(72), "tcp") is None
    assert read_socket(bytes([2]) + bytes(70), "tcp") is None
    assert read_socket(bytes([2, 1]) + bytes(70), "tcp") == Listed("tcp", 1, ("0.0.0.0", 0), ("0.0.0.0", 0))


@given(st.binary(max_size=400))
def test_any_bytes_are_messages_or_none(data: bytes) -> None:
    for _, _, body in read_messages(data):
        assert len(body) < len(data)
        read_socket(body, "tcp")
