import asyncio

import pytest

from enforcer.node import Node, pause
from enforcer.nodestate import NodeState
from mesh.problems import Unavailable
from tests.pki import Pki


def state() -> NodeState:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    leaf = Pki().leaf()
    return NodeState(
        trust_domain="corp.test",
        url="",
        node_api="127.0.0.1:1",
        server_pin="",
        server_certificate=Pki().root.der,
        reviewers_pin="",
        spiffe_id="spiffe://corp.test/limen/agent/n",
        chain=(leaf.der,),
        bundle=b"{}",
        key=leaf.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        record_key=bytes(32),
    )


def test_a_server_that_is_not_there_is_unavailable_with_its_address() -> None:
    async def run() -> None:
        node = Node(state())
        with pytest.raises(Unavailable, match="LM3444") as caught:
            await node.report_endpoints([])
        assert "127.0.0.1:1" in caught.value.message
        await node.close()

    asyncio.run(run())


def test_a_stop_cuts_the_pause_short() -> None:
    async def run() -> None:
        stop = asyncio.Event()
        stop.set()
        async with asyncio.timeout(60):
            await pause(99, stop)
        await pause(0, asyncio.Event())

    asyncio.run(run())
