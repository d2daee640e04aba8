import asyncio
import socket

import prometheus_client
import pytest

from limen.limits import PeerLimits
from limen.listener import Counted, CountingListener


def listening(most: int, most_of_one: int) -> tuple[CountingListener, tuple[str, int]]:
    found = CountingListener(socket.AF_INET, most=most, most_of_one=most_of_one)
    found.bind(("127.0.0.1", 0))
    found.listen(64)
    return found, found.getsockname()


async def is_served(address: tuple[str, int], source: str) -> asyncio.StreamWriter | None:
    """A connection from an address, once it was greeted; None when it was hung up on."""
    reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
    if await reader.read(1) == b"x":
        return writer
    writer.close()
    return None


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"x")
    await reader.read()
    writer.close()


def test_one_address_holds_so_many_connections_and_others_go_on() -> None:
    async def run() -> None:
        listener, address = listening(5, 3)
        async with await asyncio.start_server(greet, sock=listener):
            held = [await is_served(address, "127.0.0.1") for _ in range(3)]
            assert None not in held
            assert await is_served(address, "127.0.0.1") is None
            others = [await is_served(address, f"127.0.0.{number}") for number in (2, 3)]
            assert None not in others
            # all places are taken
            assert await is_served(address, "127.0.0.4") is None
            assert listener.connections == 5
            # a place that is given back is free again, once
            assert held[0] is not None
            held[0].close()
            async with asyncio.timeout(60):
                while listener.connections == 5:
                    await asyncio.sleep(0)
            again = await is_served(address, "127.0.0.1")
            assert again is not None
            assert await is_served(address, "127.0.0.1") is None
            for writer in (*held[1:], *others, again):
                assert writer is not None
                writer.close()
            async with asyncio.timeout(60):
                while listener.connections:
                    await asyncio.sleep(0)

    asyncio.run(run())


def test_a_connection_that_is_closed_twice_gives_back_one_place() -> None:
    listener, address = listening(9, 9)
    with listener, socket.create_connection(address), socket.create_connection(address):
        one, other = listener.accept()[0], listener.accept()[0]
        one.close()
        one.close()
        assert listener.connections == 1
        other.close()
        assert listener.connections == 0


def test_who_is_known_gives_the_place_back_and_stays_connected() -> None:
    listener, address = listening(1, 1)
    with listener, socket.create_connection(address) as client:
        found = listener.accept()[0]
        assert isinstance(found, Counted)
        found.give_back()
        assert listener.connections == 0
        client.sendall(b"x")
        assert found.recv(1) == b"x"
        with socket.create_connection(address):
            other = listener.accept()[0]
            # the place was given back once
            found.close()
            assert listener.connections == 1
            other.close()


def refused(port: str, reason: str) -> float:
    labels = {"port": port, "reason": reason}
    return prometheus_client.REGISTRY.get_sample_value("limen_server_refused_connections_total", labels) or 0.0


def test_an_address_that_connects_too_often_is_hung_up_on_and_others_are_not() -> None:
    listener = CountingListener(socket.AF_INET, often=PeerLimits(rate=0, burst=3), port="often.test")
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    address = listener.getsockname()
    with listener:
        for _ in range(3):
            with socket.create_connection(address):
                listener.accept()[0].close()
        assert refused("often.test", "often") == 0
        with socket.create_connection(address) as stranger:
            with pytest.raises(ConnectionAbortedError):
                listener.accept()
            assert stranger.recv(1) == b""
        with socket.create_connection(address, source_address=("127.0.0.2", 0)):
            listener.accept()[0].close()
    assert (refused("often.test", "often"), refused("often.test", "many")) == (1, 0)


def test_a_connection_beyond_the_places_takes_none_of_the_addresss_tries() -> None:
    listener = CountingListener(socket.AF_INET, most_of_one=1, often=PeerLimits(rate=0, burst=2), port="many.test")
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    address = listener.getsockname()
    with listener:
        with socket.create_connection(address), socket.create_connection(address):
            held = listener.accept()[0]
            with pytest.raises(ConnectionAbortedError):
                listener.accept()
            held.close()
        with socket.create_connection(address):
            listener.accept()[0].close()
    assert (refused("many.test", "often"), refused("many.test", "many")) == (0, 1)


@pytest.mark.skipif(not socket.has_ipv6, reason="IPv6 is not there")
def test_hosts_of_other_networks_have_tries_of_their_own_under_ipv6_too() -> None:
    often = PeerLimits(rate=0, burst=1)
    listener = CountingListener(socket.AF_INET6, often=often)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", 0))
    listener.listen(64)
    port = listener.getsockname()[1]
    with listener:
        for host in ("::1", "127.0.0.1"):
            with socket.create_connection((host, port)):
                listener.accept()[0].close()
            with socket.create_connection((host, port)), pytest.raises(ConnectionAbortedError):
                listener.accept()
    # whoever comes from another /64
    assert often.take("2001:db8::1", 0)
    assert not often.take("2001:db8::2", 0)
    assert often.take("2001:db8:0:1::1", 0)
