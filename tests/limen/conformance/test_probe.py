import pathlib

import pytest

from limen.conformance.probe import Probe, gather
from mesh.problems import Invalid
from mesh.proto import workload_pb2 as pb
from tests.limen.conformance.failing import LONG_S, SHORT_S
from tests.limen.conformance.servers import NAME, served


@pytest.mark.parametrize(
    "text", ["", "/run/a.sock", "unix:a.sock", "unix://host/a.sock?x", "unix:///a#b", "tcp://localhost:80"]
)
def test_an_address_is_an_absolute_path_and_nothing_else(text: str) -> None:
    with pytest.raises(Invalid, match="LM1040"):
        Probe(text)


def test_nobody_there_is_an_outcome(tmp_path: pathlib.Path) -> None:
    asked = Probe(f"unix://{tmp_path}/none")
    assert asked.call("FetchX509SVID", pb.X509SVIDRequest()).code == "UNAVAILABLE"
    asked.close()


def test_a_workload_is_given_everything_once(tmp_path: pathlib.Path) -> None:
    with served(tmp_path) as address:
        asked = Probe(address, stays_s=SHORT_S)
        found = gather(asked)
        assert [item.code for item in (found.x509, found.x509_bundles, found.jwt, found.jwt_bundles)] == ["OK"] * 4
        assert found.x509.is_open
        assert found.x509.message.svids[0].spiffe_id == NAME
        assert asked.raw("/SpiffeWorkloadAPI/Nothing").code == "UNIMPLEMENTED"
        asked.close()


def test_a_stream_that_ends_is_not_open(tmp_path: pathlib.Path) -> None:
    with served(tmp_path, "W-4") as address:
        asked = Probe(address, stays_s=LONG_S)
        assert not asked.call("FetchX509SVID", pb.X509SVIDRequest()).is_open
        asked.close()
