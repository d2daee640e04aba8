"""Real sockets from many addresses of loopback against the node API, and agents that go on meanwhile."""

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from typing import Self

import grpc
import pytest

from enforcer.identity import new_ask
from enforcer.join import join
from enforcer.node import OPTIONS, Node, credentials_of
from limen.listener import MOST_OF_ONE
from limen.nodefront import MOST_OF_NODE
from mesh.problems import Unavailable
from mesh.proto import node_pb2 as pb
from mesh.proto import node_pb2_grpc
from tests.doors import Doors
from tests.fuzz.rows import kept
from tests.world import RULES, World

FLOODER = "127.0.0.9"


def hello() -> bytes:
    """How a handshake begins: what comes next is never sent."""
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


class Flood:
    """A thread that opens connections from one address, a thousand a second at most, and holds all that it is left."""

    def __init__(self, address: tuple[str, int], source: str = FLOODER) -> None:
        self.tried = 0
        self._address, self._source, self._hello = address, source, hello()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        held: list[socket.socket] = []
        # it shares the interpreter with the server
        while not self._stop.wait(0.001):
            found = socket.create_connection(self._address, source_address=(self._source, 0))
            with contextlib.suppress(OSError):
                found.sendall(self._hello)
            held.append(found)
            self.tried += 1
            if len(held) > 2 * MOST_OF_ONE:
                held.pop(0).close()
        for found in held:
            found.close()


async def cut(found: socket.socket) -> bool:
    """Whether a connection ends without a byte for it, waited for."""
    found.setblocking(False)
    try:
        return await asyncio.get_running_loop().sock_recv(found, 1) == b""
    except ConnectionResetError:
        return True


async def until_held(doors: Doors, count: int) -> None:
    async with asyncio.timeout(60):
        while doors.node_listener.connections != count:
            await asyncio.sleep(0)


def at(doors: Doors) -> tuple[str, int]:
    host, port = doors.node_listener.getsockname()
    return str(host), int(port)


def test_agents_get_in_and_go_on_while_an_address_floods_and_no_row_is_left(world_now: World) -> None:
    async def run() -> None:
        world_now.rules(RULES)
        async with Doors(world_now) as doors:
            first = Node(await asyncio.to_thread(join, doors.url, doors.token()))
            ask, _ = new_ask("1", [("unix:uid", "1000")])
            assert (await first.issue([ask]))[0].code == ""
            token = doors.token()
            before = kept(world_now)
            with Flood(at(doors)) as flood:
                async with asyncio.timeout(100):
                    while flood.tried < 2 * MOST_OF_ONE:
                        await asyncio.sleep(0)
                    # nobody else did anything
                    assert kept(world_now) == before
                    assert doors.node_listener.connections <= MOST_OF_ONE
                    later = Node(await asyncio.to_thread(join, doors.url, token))
                    for node in (first, later, first, later):
                        assert (await node.issue([ask]))[0].code == ""
            await first.close()
            await later.close()
            await until_held(doors, 0)

    asyncio.run(run())


def test_an_address_that_holds_all_its_places_keeps_none_who_proved_to_be_a_node_from_going_on(
    world_now: World,
) -> None:
    async def run() -> None:
        async with Doors(world_now, proves_within_s=300) as doors:
            node = Node(await asyncio.to_thread(join, doors.url, doors.token()))
            await node.report_endpoints([])
            # known, and counted by its name
            assert doors.node_listener.connections == 0
            held = [socket.create_connection(at(doors)) for _ in range(MOST_OF_ONE)]
            await until_held(doors, MOST_OF_ONE)
            with socket.create_connection(at(doors)) as refused:
                assert await cut(refused)
            await node.report_endpoints([])
            # from elsewhere everybody gets in
            with socket.create_connection(at(doors), source_address=("127.0.0.3", 0)):
                await until_held(doors, MOST_OF_ONE + 1)
            for found in held:
                found.close()
            await until_held(doors, 0)
            await node.close()

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"", b"\x16", b"GET / HTTP/1.1\r\n\r\n", hello()], ids=["none", "one", "http", "tls"])
def test_who_proves_nothing_in_time_is_hung_up_on(world_now: World, sent: bytes) -> None:
    async def run() -> None:
        async with Doors(world_now, proves_within_s=0.05) as doors:
            with socket.create_connection(at(doors)) as found:
                found.sendall(sent)
                found.setblocking(False)
                async with asyncio.timeout(60):
                    with contextlib.suppress(ConnectionResetError):
                        while await asyncio.get_running_loop().sock_recv(found, 4096):
                            pass
            await until_held(doors, 0)

    asyncio.run(run())


def test_a_certificate_of_the_domain_that_is_no_nodes_holds_no_connection(world_now: World) -> None:
    async def run() -> None:
        world_now.rules(RULES)
        async with Doors(world_now, proves_within_s=300) as doors:
            state = await asyncio.to_thread(join, doors.url, doors.token())
            node = Node(state)
            ask, key = new_ask("1", [("unix:uid", "1000")])
            issued = await node.issue([ask])
            await node.close()
            await until_held(doors, 0)
            state.chain, state.key = tuple(issued[0].chain), key
            async with grpc.aio.secure_channel(state.node_api, credentials_of(state), options=OPTIONS) as channel:
                stub = node_pb2_grpc.NodeStub(channel)  # type: ignore[no-untyped-call]
                # the refusal is heard, and then the line is cut, long before its time to prove something is over
                with pytest.raises(grpc.aio.AioRpcError, match="LM5230"):
                    await stub.ReportEndpoints(pb.EndpointsRequest(), timeout=60)
                await until_held(doors, 0)

    asyncio.run(run())


def test_a_node_holds_so_many_connections_and_others_go_on(world_now: World) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            state = await asyncio.to_thread(join, doors.url, doors.token())
            other = Node(await asyncio.to_thread(join, doors.url, doors.token()))
            nodes = []
            for _ in range(MOST_OF_NODE):
                nodes.append(Node(state))
                await nodes[-1].report_endpoints([])
            beyond = Node(state)
            with pytest.raises(Unavailable, match="LM5219"):
                await beyond.report_endpoints([])
            await other.report_endpoints([])
            # a place that is given back is free again
            await nodes.pop().close()
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(Unavailable):
                        await beyond.report_endpoints([])
                        break
            for node in (*nodes, beyond, other):
                await node.close()

    asyncio.run(run())


def test_when_it_ends_its_socket_is_gone_and_so_are_its_descriptors(world_now: World) -> None:
    path = world_now.state / "run" / "node"

    async def run() -> None:
        async with Doors(world_now) as doors:
            node = Node(await asyncio.to_thread(join, doors.url, doors.token()))
            await node.report_endpoints([])
            assert path.name in os.listdir(path.parent)
            before = len(os.listdir("/proc/self/fd"))
            with socket.create_connection(at(doors)):
                await until_held(doors, 1)
            async with asyncio.timeout(60):
                while len(os.listdir("/proc/self/fd")) > before:
                    await asyncio.sleep(0)
            await node.close()

    asyncio.run(run())
    assert not path.exists()
