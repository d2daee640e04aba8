"""Asks a Workload API as an ordinary workload does, and writes down what came back. Judges nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from limen.conformance.tokens import AUDIENCE
from limen.endpoint import target_of
from mesh.proto import workload_pb2 as pb

SERVICE = "/SpiffeWorkloadAPI/"
HEADER = (("workload.spiffe.io", "true"),)
WITHIN_S = 20.0
STAYS_S = 0.5
Metadata = tuple[tuple[str, str], ...]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
WIT_METHODS = ("FetchWITSVID", "FetchWITBundles")
STREAMS = ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles")
ANSWERS: dict[str, Any] = {
    "FetchX509SVID": pb.X509SVIDResponse,
    "FetchX509Bundles": pb.X509BundlesResponse,
    "FetchJWTSVID": pb.JWTSVIDResponse,
    "FetchJWTBundles": pb.JWTBundlesResponse,
    "ValidateJWTSVID": pb.ValidateJWTSVIDResponse,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came back: the first message, or a status code's name. ``seconds`` until then."""

    message: Any = None
    code: str = "OK"
    details: str = ""
    seconds: float = 0.0
    is_open: bool = False


class Probe:
    """One connection to a socket. A stream that goes on for ``stays_s`` seconds after its first message is open."""

    def __init__(self, socket: str, stays_s: float = STAYS_S) -> None:
        """Raises Invalid LM1040 for what is no address of a Workload Endpoint (E-9 to E-11)."""
        self.target = target_of(socket)
        self._stays_s = stays_s
        self._channel = grpc.insecure_channel(self.target, options=[("grpc.enable_http_proxy", 0)])

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def call(self, name: str, request: Any, metadata: Metadata = HEADER) -> Outcome:  # noqa: ANN401  a message
        """Call a method of the service; of a stream, take the first message and see whether it stays open."""
        if name in STREAMS:
            return self._stream(SERVICE + name, request.SerializeToString(), ANSWERS[name].FromString, metadata)
        return self._unary(SERVICE + name, request.SerializeToString(), ANSWERS[name].FromString, metadata)

    def raw(self, method: str, metadata: Metadata = HEADER) -> Outcome:
        """Call a method by its whole name, with an empty message."""
        return self._stream(method, b"", bytes, metadata)

    def methods(self) -> set[str] | None:
        """The methods of the service as reflection tells them; None where it tells nothing."""
        from google.protobuf.descriptor_pb2 import FileDescriptorProto  # noqa: PLC0415  asked for here alone
        from grpc_reflection.v1alpha import reflection_pb2  # noqa: PLC0415

        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE.strip("/"))
        call = self._channel.stream_stream(
            REFLECTION,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(iter([asked]), metadata=HEADER, timeout=WITHIN_S)
        try:
            files = next(call).file_descriptor_response.file_descriptor_proto
            services = [item for data in files for item in FileDescriptorProto.FromString(data).service]
        except (grpc.RpcError, StopIteration, DecodeError):
            return None
        finally:
            call.cancel()
        return {method.name for item in services if item.name == SERVICE.strip("/") for method in item.method} or None

    def _unary(self, method: str, data: bytes, read: Callable[[bytes], Any], metadata: Metadata) -> Outcome:
        begun = time.monotonic()
        try:
            ask = self._channel.unary_unary(method, response_deserializer=read)
            found = ask(data, metadata=metadata, timeout=WITHIN_S)
        except grpc.RpcError as err:
            return _failed(err, begun)
        return Outcome(message=found, seconds=time.monotonic() - begun)

    def _stream(self, method: str, data: bytes, read: Callable[[bytes], Any], metadata: Metadata) -> Outcome:
        begun = time.monotonic()
        call = self._channel.unary_stream(method, response_deserializer=read)(data, metadata=metadata, timeout=WITHIN_S)
        try:
            found = next(call)
        except StopIteration:
            return Outcome(code="OK", details="ended without a message", seconds=time.monotonic() - begun)
        except grpc.RpcError as err:
            return _failed(err, begun)
        seconds = time.monotonic() - begun
        is_open = _stays_open(call, self._stays_s)
        call.cancel()
        return Outcome(message=found, seconds=seconds, is_open=is_open)


def _stays_open(call: Any, for_s: float) -> bool:  # noqa: ANN401  grpc has no types
    """Whether a stream goes on for so long: a live one has no status yet."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        if not call.is_active():
            return False
        time.sleep(0.02)
    return True


def _failed(err: grpc.RpcError, begun: float) -> Outcome:
    call: Any = err
    return Outcome(code=call.code().name, details=str(call.details())[:200], seconds=time.monotonic() - begun)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that was asked for once, so that rules only look."""

    x509: Outcome
    x509_bundles: Outcome
    jwt: Outcome
    jwt_bundles: Outcome
    again: Outcome

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """All that came back."""
        return self.x509, self.x509_bundles, self.jwt, self.jwt_bundles, self.again


def gather(probe: Probe) -> Evidence:
    """Ask for everything a workload may have."""
    return Evidence(
        x509=probe.call("FetchX509SVID", pb.X509SVIDRequest()),
        x509_bundles=probe.call("FetchX509Bundles", pb.X509BundlesRequest()),
        jwt=probe.call("FetchJWTSVID", pb.JWTSVIDRequest(audience=[AUDIENCE])),
        jwt_bundles=probe.call("FetchJWTBundles", pb.JWTBundlesRequest()),
        again=probe.call("FetchX509SVID", pb.X509SVIDRequest()),
    )


def names_of(svids: Sequence[Any]) -> list[str]:
    """The SPIFFE IDs of SVIDs, in order."""
    return [str(item.spiffe_id) for item in svids]
