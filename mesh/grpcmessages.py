"""What comes over gRPC and is no message of its method: refused with a code, where gRPC would call it a bug.

Left alone, a message that cannot be parsed answers UNKNOWN and writes a traceback to the log for every byte string
that somebody sends. This module is the server's side only; it knows no service.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from mesh.problems import Invalid

Handler = Any


class _Malformed:
    """Stands for a message that could not be parsed."""


_MALFORMED = _Malformed()


class WellFormed(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Answers INVALID_ARGUMENT with LM5215 to what is no message of its method."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler]], handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Parse in the handler's place, and refuse before it is called."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        method = str(handler_call_details.method)
        parse = _parser(handler.request_deserializer)
        makers = {
            (False, False): (grpc.unary_unary_rpc_method_handler, _unary(handler.unary_unary, method)),
            (False, True): (grpc.unary_stream_rpc_method_handler, _stream(handler.unary_stream, method)),
            (True, False): (grpc.stream_unary_rpc_method_handler, _of_stream(handler.stream_unary, method)),
            (True, True): (grpc.stream_stream_rpc_method_handler, _streams(handler.stream_stream, method)),
        }
        make, served = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
        return make(served, request_deserializer=parse, response_serializer=handler.response_serializer)


def _parser(parse: Callable[[bytes], object]) -> Callable[[bytes], object]:
    def parsed(data: bytes) -> object:
        try:
            return parse(data)
        except DecodeError:
            return _MALFORMED

    return parsed


def _unary(serve: Callable[[Any, Any], Awaitable[Any]], method: str) -> Callable[[Any, Any], Awaitable[Any]]:
    async def served(request: object, context: grpc.aio.ServicerContext) -> Any:  # noqa: ANN401  a message
        await _check(request, context, method)
        return await serve(request, context)

    return served


def _stream(serve: Callable[[Any, Any], AsyncIterator[Any]], method: str) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def served(request: object, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        await _check(request, context, method)
        async for message in serve(request, context):
            yield message

    return served


def _of_stream(serve: Callable[[Any, Any], Awaitable[Any]], method: str) -> Callable[[Any, Any], Awaitable[Any]]:
    async def served(requests: AsyncIterator[object], context: grpc.aio.ServicerContext) -> Any:  # noqa: ANN401
        return await serve(_checked(requests, context, method), context)

    return served


def _streams(serve: Callable[[Any, Any], AsyncIterator[Any]], method: str) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def served(requests: AsyncIterator[object], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for message in serve(_checked(requests, context, method), context):
            yield message

    return served


async def _checked(
    requests: AsyncIterator[object], context: grpc.aio.ServicerContext, method: str
) -> AsyncIterator[object]:
    async for request in requests:
        await _check(request, context, method)
        yield request


async def _check(request: object, context: grpc.aio.ServicerContext, method: str) -> None:
    if request is _MALFORMED:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(Invalid("LM5215", method=method[:200])))
