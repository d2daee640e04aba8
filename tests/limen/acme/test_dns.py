import asyncio
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.acme import dns
from mesh.problems import Invalid

ASKED = dns.query("_acme-challenge.a.test", dns.TXT, 7)


def answer(*texts: str, number: int = 7, status: int = 0) -> bytes:
    rows = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", dns.TXT, 1, 1, len(text) + 1) + bytes([len(text)]) + text.encode()
        for text in texts
    )
    return struct.pack(">6H", number, 0x8180 | status, 1, len(texts), 0, 0) + ASKED[12:] + rows


def test_an_answer_is_read() -> None:
    data, is_cut, status = dns.answers(answer("one", "two"), ASKED, dns.TXT)
    assert [dns.text(item) for item in data] == ["one", "two"]
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


async def of_udp() -> list[str]:
    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: object) -> None:
            number = struct.unpack_from(">H", data)[0]
            self.transport.sendto(b"junk", addr)
            self.transport.sendto(answer("forged", number=number ^ 1), addr)
            self.transport.sendto(answer("right", number=number), addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    try:
        return await dns.Resolver(lambda: ("127.0.0.1", port)).txt("_acme-challenge.a.test")
    finally:
        transport.close()


def test_only_the_answer_to_our_number_is_taken() -> None:
    assert asyncio.run(of_udp()) == ["right"]


def test_a_host_without_resolver_is_said(tmp_path: object) -> None:
    import pathlib

    with pytest.raises(Invalid, match="LM1415"):
        dns.system_server(pathlib.Path(str(tmp_path)) / "none")
