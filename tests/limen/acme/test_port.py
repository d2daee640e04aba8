import asyncio
import ssl

from limen import tlsport
from limen.acme.port import AcmePort
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
