"""E-4 for every kind of call, and what a caller may use up; a real client against the real socket."""

import pathlib

import grpc
import pytest

from enforcer import budget
from enforcer.workloadapi import MAX_MESSAGE_BYTES
from mesh.proto import workload_pb2 as pb
from tests.enforcer.test_workloadapi import HEADER, Served, client, code_of, run

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
BAD = [(), (("workload.spiffe.io", "True"),), (("workload.spiffe.io", "1"),), HEADER * 2]


async def raw(found: Served, method: str, data: bytes, metadata: tuple[tuple[str, str], ...]) -> tuple[str, str, bytes]:
    async with grpc.aio.insecure_channel(f"unix:{found.path}") as channel:
        call = channel.stream_stream(method)(iter([data]), metadata=metadata)
        try:
            answer = await call.read()
            if answer is not grpc.aio.EOF:
                return "OK", "", answer
            return (await call.code()).name, await call.details(), b""
        except grpc.aio.AioRpcError as err:
            return err.code().name, err.details() or "", b""


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("/SpiffeWorkloadAPI/FetchX509SVID", id="E-4-x509"),
        pytest.param("/SpiffeWorkloadAPI/FetchX509Bundles", id="E-4-x509-bundles"),
        pytest.param("/SpiffeWorkloadAPI/FetchJWTSVID", id="E-4-jwt"),
        pytest.param("/SpiffeWorkloadAPI/FetchJWTBundles", id="E-4-jwt-bundles"),
        pytest.param("/SpiffeWorkloadAPI/ValidateJWTSVID", id="E-4-validate"),
        pytest.param("/SpiffeWorkloadAPI/FetchWITSVID", id="E-4-wit"),
        pytest.param("/no.such.Service/Call", id="E-4-unknown"),
        pytest.param(REFLECTION, id="E-4-reflection"),
    ],
)
def test_the_header_is_asked_for_first_whatever_the_call(method: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        for metadata in BAD:
            code, details, _data = await raw(found, method, b"", metadata)
            assert (code, "LM3501" in details) == ("INVALID_ARGUMENT", True), metadata
        assert found.provider.callers == []

    run(tmp_path, work)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("/SpiffeWorkloadAPI/FetchWITSVID", id="W-1-wit-svid"),
        pytest.param("/SpiffeWorkloadAPI/FetchWITBundles", id="W-1-wit-bundles"),
        pytest.param("/SpiffeWorkloadAPI/ValidateWITSVID", id="W-1-wit-validate"),
        pytest.param("/spiffe.broker.Broker/FetchX509SVID", id="E-12-broker"),
        pytest.param("/no.such.Service/Call", id="E-12-unknown"),
    ],
)
def test_what_is_not_served_is_unimplemented(method: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        assert (await raw(found, method, b"", HEADER))[0] == "UNIMPLEMENTED"

    run(tmp_path, work)


def test_E_14_reflection_names_the_service(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        # list_services: field 7, empty string
        code, _details, data = await raw(found, REFLECTION, b"\x3a\x00", HEADER)
        assert code == "OK"
        assert b"SpiffeWorkloadAPI" in data

    run(tmp_path, work)


def test_a_message_that_is_too_large_is_refused(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        data = b"\x0a\x80\x80\x80\x01" + b"x" * (2 * MAX_MESSAGE_BYTES)
        assert (await raw(found, "/SpiffeWorkloadAPI/FetchX509SVID", data, HEADER))[0] == "RESOURCE_EXHAUSTED"
        assert found.provider.callers == []

    run(tmp_path, work)


def test_E_12_who_asks_again_and_again_is_told_to_come_later(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "BURST", 3.0)
    monkeypatch.setattr(budget, "MESSAGES_PER_S", 0.0)

    async def work(found: Served, stub: object) -> None:
        codes = []
        for _ in range(5):
            async with client(found.path) as own:
                codes.append(await code_of(own.FetchX509Bundles(pb.X509BundlesRequest(), metadata=HEADER)))
        assert [code for code, _ in codes] == ["OK"] * 3 + ["UNAVAILABLE"] * 2
        assert "LM3505" in codes[-1][1]

    run(tmp_path, work)


def test_W_13_jwt_bundles_hold_the_own_trust_domain(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: object) -> None:
        call = stub.FetchJWTBundles(pb.JWTBundlesRequest(), metadata=HEADER)  # type: ignore[attr-defined]
        message = await anext(aiter(call))
        assert "spiffe://corp.test" in message.bundles
        call.cancel()

    run(tmp_path, work)
