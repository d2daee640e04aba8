"""gRPC servers and channels: who may call what, while it lasts, and no call fails because something was rotated."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from enforcer.sdk import Limen
from enforcer.sdk.grpcaio import ServerInterceptor, caller, channel, server_credentials
from mesh.problems import Invalid
from tests.enforcer.native.harness import DB, OPS, WEB, Realm, policies
from tests.enforcer.sdk.conftest import Teller

Make = Callable[..., tuple[Limen, Teller]]
ALLOW: dict[str, object] = {
    "id": "read",
    "effect": "allow",
    "from": [WEB],
    "to": [{"paths": ["/shop.Orders/Get", "/shop.Orders/Watch", "/shop.Orders/Sum", "/shop.Orders/Chat"]}],
}
RULES = policies(ALLOW, protocol="grpc")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:grpc")


class Orders(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Methods of every kind."""

    def __init__(self) -> None:
        self.callers: list[str] = []
        self.forever = asyncio.Event()

    def service(self, details: Any) -> Any:
        return {
            "/shop.Orders/Get": grpc.unary_unary_rpc_method_handler(self.get),
            "/shop.Orders/Drop": grpc.unary_unary_rpc_method_handler(self.get),
            "/shop.Orders/Watch": grpc.unary_stream_rpc_method_handler(self.watch),
            "/shop.Orders/Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "/shop.Orders/Chat": grpc.stream_stream_rpc_method_handler(self.chat),
        }.get(details.method)

    async def get(self, request: bytes, context: Any) -> bytes:
        self.callers.append(caller.get())
        return request

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        await self.forever.wait()

    async def sum(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([found async for found in requests])

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for found in requests:
            yield found


@contextlib.asynccontextmanager
async def serving(limen: Limen) -> AsyncIterator[tuple[int, Orders]]:
    orders = Orders()
    server = grpc.aio.server(interceptors=[ServerInterceptor(limen)])
    server.add_generic_rpc_handlers((orders,))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(limen))
    await server.start()
    try:
        yield port, orders
    finally:
        await server.stop(0)


def run(work: Callable[[], Any]) -> None:
    async def main() -> None:
        async with asyncio.timeout(100):
            await work()

    asyncio.run(main())


def caller_at(limens: Make, port: int, spiffe_id: str = WEB) -> tuple[Limen, Teller]:
    return limens(spiffe_id, RULES, ((DB, port),))


def test_methods_are_decided_by_caller_and_name(limens: Make) -> None:
    db, teller = limens(DB, RULES)

    async def work() -> None:
        async with serving(db) as (port, orders):
            web, _ = await asyncio.to_thread(caller_at, limens, port)
            ops, _ = await asyncio.to_thread(caller_at, limens, port, OPS)
            async with channel(web, "db") as way:
                assert await way.unary_unary("/shop.Orders/Get")(b"1") == b"1"
                assert await way.stream_unary("/shop.Orders/Sum")(iter([b"1", b"2"])) == b"12"
                said = [found async for found in way.stream_stream("/shop.Orders/Chat")(iter([b"1", b"2"]))]
                assert said == [b"1", b"2"]
                with pytest.raises(grpc.aio.AioRpcError) as denied:
                    await way.unary_unary("/shop.Orders/Drop")(b"1")
                with pytest.raises(grpc.aio.AioRpcError) as unknown:
                    await way.unary_unary("/shop.Orders/Nothing")(b"1")
            async with channel(ops, DB) as way:
                for kind in (way.unary_unary, way.unary_stream):
                    with pytest.raises(grpc.aio.AioRpcError) as stranger:
                        call = kind("/shop.Orders/Get" if kind == way.unary_unary else "/shop.Orders/Watch")(b"1")
                        if kind == way.unary_unary:
                            await call
                        else:
                            await call.read()
                    assert stranger.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert orders.callers == [WEB]
        assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
        told = dict(denied.value.trailing_metadata())
        assert f"limen audit show {told['x-limen-decision']}" in denied.value.details()
        found = await asyncio.to_thread(teller.programs[0].record, id=told["x-limen-decision"])
        assert (found["caller"], found["protocol"], found["path"]) == (WEB, "grpc", "/shop.Orders/Drop")
        assert (found["code"], found["peer_ip"]) == (told["x-limen-code"], "127.0.0.1")

    run(work)


def test_a_stream_ends_when_its_caller_is_denied_and_a_call_is_denied_at_once(limens: Make) -> None:
    db, teller = limens(DB, RULES)

    async def work() -> None:
        async with serving(db) as (port, _):
            web, _ = await asyncio.to_thread(caller_at, limens, port)
            async with channel(web, "db") as way:
                stream = way.unary_stream("/shop.Orders/Watch")(b"1")
                assert await stream.read() == b"1"
                await asyncio.to_thread(teller.policy, policies(protocol="grpc"), 2)
                with pytest.raises(grpc.aio.AioRpcError) as denied:
                    await way.unary_unary("/shop.Orders/Get")(b"1")
                assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await stream.read()
                assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED
                assert "LM3465" in ended.value.details()

    run(work)


def test_a_revoked_caller_loses_the_next_call_on_its_kept_channel_and_calls_are_counted(
    limens: Make, corp: Realm
) -> None:
    db, teller = limens(DB, RULES)

    async def work() -> None:
        async with serving(db) as (port, orders):
            web, _ = await asyncio.to_thread(caller_at, limens, port)
            async with channel(web, "db") as way:
                assert await way.unary_unary("/shop.Orders/Get")(b"1") == b"1"
                identity = web.workload.identity
                assert identity is not None
                await asyncio.to_thread(teller.identify, corp.svid(DB), corp.revoking(identity.svid), trust=2)
                with pytest.raises(grpc.aio.AioRpcError):
                    await way.unary_unary("/shop.Orders/Get")(b"1")
            assert orders.callers == [WEB]

    run(work)
    rows = [[8080, WEB, "allowed", "none", 1], [8080, "", "refused", "none", 1]]
    teller.programs[0].counted(*rows)


def test_a_rotation_fails_no_call_and_moves_to_a_connection_with_the_new_svid(limens: Make, corp: Realm) -> None:
    db, teller = limens(DB, RULES)

    async def work() -> None:
        async with serving(db) as (port, _):
            web, web_teller = await asyncio.to_thread(caller_at, limens, port)
            async with channel(web, "db") as way:
                stream = way.unary_stream("/shop.Orders/Watch")(b"1")
                assert await stream.read() == b"1"
                for turn in range(2, 6):
                    await asyncio.to_thread(teller.identify, corp.svid(DB), corp.bundle, trust=turn)
                    await asyncio.to_thread(web_teller.identify, corp.svid(WEB), corp.bundle, trust=turn)
                    for _ in range(20):
                        assert await way.unary_unary("/shop.Orders/Get")(b"1") == b"1"
                chains = {found.chain for gate in web._gates for found in gate._live}
                # the stream's connection, and those that came after
                assert len(chains) >= 2
                stream.cancel()

    run(work)


def test_a_caller_whose_bundle_was_removed_is_nobody(limens: Make, corp: Realm, evil: Realm) -> None:
    db, teller = limens(DB, RULES)

    async def work() -> None:
        async with serving(db) as (port, orders):
            web, _ = await asyncio.to_thread(caller_at, limens, port)
            async with channel(web, "db") as way:
                assert await way.unary_unary("/shop.Orders/Get")(b"1") == b"1"
                await asyncio.to_thread(teller.identify, corp.svid(DB), evil.bundle, trust=2)
                with pytest.raises(grpc.aio.AioRpcError):
                    await way.unary_unary("/shop.Orders/Get")(b"1")
            assert orders.callers == [WEB]

    run(work)


def test_without_a_certificate_or_of_another_authority_nobody_gets_to_a_method(
    limens: Make, corp: Realm, evil: Realm
) -> None:
    db, _ = limens(DB, RULES)

    async def work() -> None:
        from enforcer.sdk.grpcaio import _pem

        root = _pem(b"CERTIFICATE", corp.bundle.x509_authorities[0])
        other = evil.svid(WEB)
        chain = b"".join(_pem(b"CERTIFICATE", der) for der in other.chain_der)
        async with serving(db) as (port, orders):
            for given in ((None, None), (_pem(b"PRIVATE KEY", other.key_pkcs8_der), chain)):
                credentials = grpc.ssl_channel_credentials(root, *given)
                async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as way:
                    with pytest.raises(grpc.aio.AioRpcError):
                        await way.unary_unary("/shop.Orders/Get")(b"1")
            assert orders.callers == []

    run(work)


def test_the_port_is_the_one_that_was_asked_for(limens: Make) -> None:
    limen, _ = limens(DB, RULES)
    assert ServerInterceptor(limen, port=9)
    limen._known().serves = ()
    with pytest.raises(Invalid, match="LM5240"):
        ServerInterceptor(limen)
