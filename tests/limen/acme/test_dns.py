import asyncio
import struct
from typing import Any

import pytest

from limen.acme import dns
from mesh.dnswire import TXT, query
from mesh.problems import Invalid

ASKED = query("_acme-challenge.a.test", TXT, 7)


def answer(*texts: str, number: int = 7, status: int = 0) -> bytes:
    rows = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", TXT, 1, 1, len(text) + 1) + bytes([len(text)]) + text.encode()
        for text in texts
    )
    return struct.pack(">6H", number, 0x8180 | status, 1, len(texts), 0, 0) + ASKED[12:] + rows


def test_the_strings_of_a_text_are_one() -> None:
    assert dns.text(b"\x03one\x03two") == "onetwo"


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
