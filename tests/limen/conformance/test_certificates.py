import pathlib

import pytest

from limen.conformance.certificates import is_domain, is_workload, rows
from limen.conformance.row import Result
from mesh.clock import SystemClock
from mesh.proto import workload_pb2 as pb
from tests.limen.conformance.failing import failed
from tests.limen.conformance.servers import LEAVES, SIGNERS


@pytest.mark.parametrize(
    "broken", ["ID-1", "W-6-fields", "W-8", "W-9", "W-10", "W-11-long", "X-16", "X-28", *LEAVES, *SIGNERS]
)
def test_each_statement_that_is_broken_is_named(tmp_path: pathlib.Path, broken: str) -> None:
    assert "-".join(broken.split("-")[:2]) in failed(tmp_path, broken)


def test_bytes_of_a_stranger_are_a_finding_and_no_error() -> None:
    svid = pb.X509SVID(spiffe_id="spiffe://x/a", x509_svid=b"\x30", x509_svid_key=b"\x30\x80", bundle=b"?")
    found = {row.id: row.result for row in rows([svid], SystemClock().now())}
    assert {found[name] for name in ("W-8", "W-9", "W-10", "X-1", "X-7", "X-16")} == {Result.FAIL}


def test_a_bundle_is_named_by_a_trust_domain_and_an_svid_by_a_workload() -> None:
    assert (is_domain("spiffe://a"), is_workload("spiffe://a")) == (True, False)
    assert (is_domain("spiffe://a/b"), is_workload("spiffe://a/b")) == (False, True)
    assert (is_domain("a"), is_workload("a")) == (False, False)
