import asyncio
import socket

from limen.limits import CONNECT_BURST, CONNECT_RATE, PeerLimits
from tests.doors import Doors
from tests.world import World


def test_hosts_behind_one_address_come_back_together_and_who_goes_on_and_on_is_slowed_down() -> None:
    limits = PeerLimits(rate=CONNECT_RATE, burst=CONNECT_BURST)
    assert all(limits.take("192.0.2.1", 0.0) for _ in range(CONNECT_BURST))
    assert not limits.take("192.0.2.1", 0.0)
    assert limits.take("192.0.2.2", 0.0)
    assert limits.take("192.0.2.1", 0.1)


def test_one_address_makes_the_server_begin_so_many_handshakes_and_no_more(world_now: World) -> None:
    async def run() -> int:
        begun = 0
        # however long it takes
        async with Doors(world_now, often=PeerLimits(rate=0, burst=50)) as doors:
            for _ in range(80):
                with socket.create_connection(doors.node_listener.getsockname()) as found:
                    found.setblocking(False)
                    async with asyncio.timeout(60):
                        while not doors.node_listener.connections and not await gone(found):
                            await asyncio.sleep(0)
                        begun += doors.node_listener.connections
                async with asyncio.timeout(60):
                    while doors.node_listener.connections:
                        await asyncio.sleep(0)
        return begun

    async def gone(found: socket.socket) -> bool:
        try:
            return found.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    assert asyncio.run(run()) == 50
