import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from mesh.grpcmessages import WellFormed
from mesh.proto import node_pb2 as pb

WELL = pb.WatchRequest(epoch=3).SerializeToString()
BAD = b"\x0a\xff"


async def unary(request: pb.WatchRequest, context: object) -> pb.RecordAck:
    return pb.RecordAck(sequence=request.epoch)


async def stream(request: pb.WatchRequest, context: object) -> AsyncIterator[pb.RecordAck]:
    yield pb.RecordAck(sequence=request.epoch)


async def of_stream(requests: AsyncIterator[pb.WatchRequest], context: object) -> pb.RecordAck:
    return pb.RecordAck(sequence=sum([request.epoch async for request in requests]))


async def streams(requests: AsyncIterator[pb.WatchRequest], context: object) -> AsyncIterator[pb.RecordAck]:
    async for request in requests:
        yield pb.RecordAck(sequence=request.epoch)


KINDS: dict[str, tuple[Any, Any]] = {
    "unary_unary": (grpc.unary_unary_rpc_method_handler, unary),
    "unary_stream": (grpc.unary_stream_rpc_method_handler, stream),
    "stream_unary": (grpc.stream_unary_rpc_method_handler, of_stream),
    "stream_stream": (grpc.stream_stream_rpc_method_handler, streams),
}


async def call(channel: grpc.aio.Channel, kind: str, *messages: bytes) -> list[int]:
    found = getattr(channel, kind)(f"/s/{kind}")
    asked = found(iter(messages) if kind.startswith("stream") else messages[0], timeout=60)
    answers = [answer async for answer in asked] if kind.endswith("stream") else [await asked]
    return [pb.RecordAck.FromString(answer).sequence for answer in answers]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_message_is_refused_with_a_code_and_all_else_goes_on(kind: str, tmp_path: pathlib.Path) -> None:
    make, serve = KINDS[kind]
    handler = make(
        serve, request_deserializer=pb.WatchRequest.FromString, response_serializer=pb.RecordAck.SerializeToString
    )

    async def run() -> None:
        server = grpc.aio.server(interceptors=[WellFormed()])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {kind: handler}),))
        server.add_insecure_port(f"unix:{tmp_path}/s")
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            assert await call(channel, kind, WELL) == [3]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, kind, BAD)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert f"LM5215: a message to `/s/{kind}`" in str(caught.value.details())
            if kind.startswith("stream"):
                with pytest.raises(grpc.aio.AioRpcError, match="LM5215"):
                    await call(channel, kind, WELL, BAD)
            with pytest.raises(grpc.aio.AioRpcError) as missing:
                await channel.unary_unary("/s/none")(WELL, timeout=60)
            assert missing.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert await call(channel, kind, WELL) == [3]
        await server.stop(None)

    asyncio.run(run())
