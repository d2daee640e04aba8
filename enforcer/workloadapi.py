"""`agent.sock`: the SPIFFE Workload API (SPIFFE_Workload_API.md, SPIFFE_Workload_Endpoint.md) and Envoy's SDS.

Who gets what is decided by the identity rules; who asks, by the front; for how much, by the admission. SDS and
reflection are loaded when the first call asks for them: most agents are never asked.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from enforcer import jwtapi, x509api
from enforcer.admission import SDS_PREFIX, Admission, Identities, SecurityHeader
from enforcer.order import Order
from enforcer.workloadfront import Front
from mesh.grpcmessages import WellFormed
from mesh.problems import Invalid, Problem, Unavailable
from mesh.proto import workload_pb2 as pb
from mesh.proto import workload_pb2_grpc

MAX_MESSAGE_BYTES = 1 << 20
_REFLECTION_PREFIX = "/grpc.reflection.v1alpha.ServerReflection/"


class WorkloadApi(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """The service at the socket."""

    def __init__(self, identities: Identities, path: pathlib.Path, private: pathlib.Path, order: Order) -> None:
        self._front = Front(path, private, order)
        self._admission = Admission(identities, self._front)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen; every user may connect."""
        address = self._front.prepare()
        self._server = grpc.aio.server(
            interceptors=[SecurityHeader(), WellFormed()],
            options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)],
        )
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]  # generated
        self._server.add_generic_rpc_handlers((_Later(self._admission),))
        self._server.add_insecure_port(address)
        await self._server.start()
        await self._front.start()

    async def stop(self) -> None:
        """Stop listening and end every stream."""
        self._front.close()
        if self._server is not None:
            await self._server.stop(0.5)
        self._front.remove()

    async def FetchX509SVID(
        self, request: pb.X509SVIDRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.X509SVIDResponse]:
        """Send all X.509-SVIDs of the caller at once, and again after every change (Workload API §5.2.1)."""
        del request
        async with contextlib.aclosing(self._admission.updates(context, x509api.svids_message)) as messages:
            async for message in messages:
                yield message

    async def FetchX509Bundles(
        self, request: pb.X509BundlesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.X509BundlesResponse]:
        """Send all bundles at once, and again after every change (Workload API §5.2.2)."""
        del request
        async with contextlib.aclosing(self._admission.updates(context, x509api.bundles_message)) as messages:
            async for message in messages:
                yield message

    async def FetchJWTSVID(self, request: pb.JWTSVIDRequest, context: grpc.aio.ServicerContext) -> pb.JWTSVIDResponse:
        """Give JWT-SVIDs for the audiences, of all the caller's identities or the one that is named (§6.2.1)."""
        asked = self._admission.identities
        async with self._admission.call(context) as caller:
            try:
                jwtapi.check(request)
                identities = await self._admission.entitled(caller, context)
                wanted = jwtapi.wanted(request, identities)
                audiences = list(request.audience)
                return jwtapi.svids_message([(item, await asked.jwt_svid(item, audiences)) for item in wanted])
            except Invalid as problem:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
                raise
            except Unavailable as problem:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(problem))
                raise
            except Problem as problem:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(problem))
                raise

    async def FetchJWTBundles(
        self, request: pb.JWTBundlesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.JWTBundlesResponse]:
        """Send all JWT bundles at once, and again after every change (Workload API §6.2.2)."""
        del request
        async with contextlib.aclosing(self._admission.updates(context, jwtapi.bundles_message)) as messages:
            async for message in messages:
                yield message

    async def ValidateJWTSVID(
        self, request: pb.ValidateJWTSVIDRequest, context: grpc.aio.ServicerContext
    ) -> pb.ValidateJWTSVIDResponse:
        """Say whose a token is and what it claims, if it is valid (Workload API §6.2.3)."""
        asked = self._admission.identities
        async with self._admission.call(context) as caller:
            try:
                jwtapi.check(request)
                identities = await self._admission.entitled(caller, context)
                return jwtapi.validated(request, identities, asked.bundles(), asked.now())
            except Invalid as problem:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
                raise


class _Later(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Finds methods of services that are loaded when somebody asks for one."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._loaded: dict[str, dict[str, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401  a handler of grpc
        """The handler of a method, or None."""
        prefix, _, name = handler_call_details.method.rpartition("/")
        if f"{prefix}/" not in {SDS_PREFIX, _REFLECTION_PREFIX}:
            return None
        if prefix not in self._loaded:
            self._loaded[prefix] = self._load_sds() if f"{prefix}/" == SDS_PREFIX else _load_reflection()
        return self._loaded[prefix].get(name)

    def _load_sds(self) -> dict[str, Any]:
        from enforcer.sds import handlers  # noqa: PLC0415  3 MB and 35 ms that only agents with Envoys pay

        return handlers(self._admission)


def _load_reflection() -> dict[str, Any]:
    from grpc_reflection.v1alpha import _async, reflection, reflection_pb2  # noqa: PLC0415  asked for by people alone

    served = _async.ReflectionServicer(
        (pb.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"].full_name, reflection.SERVICE_NAME)
    )
    return {
        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
            served.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
    }
