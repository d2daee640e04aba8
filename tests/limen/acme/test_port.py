import asyncio
import datetime as dt
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest

from limen import tlsport
from limen.acme.port import AcmePort
from mesh.problems import Invalid
from tests.world import World


def test_the_acme_root_covers_the_port_and_agents_still_see_the_pinned_key(world_now: World) -> None:
    app = world_now.app
    port = tlsport.TlsPort(tlsport.context_of(*app.server_pem()))
    AcmePort(app.acme, port, "127.0.0.1", is_default=True).renew()

    async def shown(name: str, context: ssl.SSLContext) -> bytes:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=port.context)
        address = server.sockets[0].getsockname()
        _, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=name)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        server.close()
        return bytes(der)

    trusting = ssl.create_default_context(cadata=app.acme.authority.root_pem().decode())
    assert asyncio.run(shown("localhost", trusting))
    assert asyncio.run(shown("127.0.0.1", trusting))
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    assert asyncio.run(shown("limen-server", blind)) == app._authority.server_certificate


def test_a_certificate_that_cannot_be_renewed_does_not_end_the_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = AcmePort(
        world.app.acme, tlsport.TlsPort(tlsport.context_of(*world.app.server_pem())), "127.0.0.1", is_default=True
    )
    asked = []

    async def run() -> None:
        stop = asyncio.Event()

        def fail() -> None:
            asked.append(1)
            if len(asked) == 3:
                loop.call_soon_threadsafe(stop.set)
            raise Invalid("LM1204", end="then")

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(port, "renew", fail)
        with ThreadPoolExecutor(1) as worker:
            await asyncio.wait_for(port.keep(worker, stop), 60)

    monkeypatch.setattr("limen.acme.port.RENEW", dt.timedelta(milliseconds=1))
    asyncio.run(run())
    assert len(asked) >= 3
