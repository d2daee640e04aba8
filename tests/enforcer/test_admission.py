"""What a caller may use up; a real client against the real socket. Who is let in: tests/conformance."""

import pathlib

import pytest

from enforcer import budget
from enforcer.workloadapi import MAX_MESSAGE_BYTES
from mesh.proto import workload_pb2 as pb
from tests.conformance.test_workload_endpoint import raw
from tests.enforcer.test_workloadapi import HEADER, Served, client, code_of, run


def test_a_message_that_is_too_large_is_refused(tmp_path: pathlib.Path) -> None:
    async def work(found: Served, _: object) -> None:
        data = b"\x0a\x80\x80\x80\x01" + b"x" * (2 * MAX_MESSAGE_BYTES)
        assert (await raw(found, "/SpiffeWorkloadAPI/FetchX509SVID", data, HEADER))[0] == "RESOURCE_EXHAUSTED"
        assert found.provider.callers == []

    run(tmp_path, work)


def test_E_12_who_asks_again_and_again_is_told_to_come_later(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "BURST", 6.0)
    monkeypatch.setattr(budget, "MESSAGES_PER_S", 0.0)

    async def work(found: Served, stub: object) -> None:
        codes = []
        for _ in range(5):
            async with client(found.path) as own:
                codes.append(await code_of(own.FetchX509Bundles(pb.X509BundlesRequest(), metadata=HEADER)))
        assert [code for code, _ in codes] == ["OK"] * 3 + ["UNAVAILABLE"] * 2
        assert "LM3505" in codes[-1][1]

    run(tmp_path, work)
