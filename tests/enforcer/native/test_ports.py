import asyncio
import socket

import pytest

from enforcer.native.ports import handles_of, has_ipv6, serve
from mesh.problems import Invalid


class Hello(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


def read(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        return sock.recv(9)


def test_a_socket_that_was_handed_over_goes_on_when_one_side_of_it_is_closed() -> None:
    held = socket.create_server(("127.0.0.1", 0))
    port = held.getsockname()[1]

    async def main() -> list[bytes]:
        found = []
        for _ in range(3):
            # another one takes from the same socket, as another process would
            server = await serve(Hello, "127.0.0.1", port, held.dup().detach())
            assert handles_of([server]) != []
            found.append(await asyncio.to_thread(read, port))
            server.close()
            await server.wait_closed()
            # nobody takes from it now, and who connects waits
            waiting = socket.create_connection(("127.0.0.1", port), 30)
            again = await serve(Hello, "127.0.0.1", port, held.dup().detach())
            found.append(await asyncio.to_thread(waiting.recv, 9))
            waiting.close()
            again.close()
            await again.wait_closed()
        return found

    with held:
        assert asyncio.run(main()) == [b"hello"] * 6


@pytest.mark.parametrize("handle", [None, 1_000_000], ids=["an address of nobody", "no such socket"])
def test_what_cannot_be_had_is_said(handle: int | None) -> None:
    with pytest.raises(Invalid, match="LM3014"):
        asyncio.run(serve(Hello, "203.0.113.1", 1, handle))


def test_whether_there_is_ipv6_is_what_the_kernel_says() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            found = True
    except OSError:
        found = False
    assert has_ipv6() is found
