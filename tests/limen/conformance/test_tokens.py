import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.conformance.row import Result
from limen.conformance.tokens import is_compact, rows, spoilt
from mesh.clock import SystemClock
from mesh.proto import workload_pb2 as pb
from tests.limen.conformance.failing import failed
from tests.limen.conformance.servers import CLAIMS, HEADS
from tests.mesh.test_jwtsvid import GOOD


@pytest.mark.parametrize("broken", ["J-1", "J-4", "J-17", "J-18", "J-20", "B-1", "B-6", "B-9", *HEADS, *CLAIMS])
def test_each_statement_that_is_broken_is_named(tmp_path: pathlib.Path, broken: str) -> None:
    assert "-".join(broken.split("-")[:2]) in failed(tmp_path, broken)


def test_a_key_need_not_say_its_use_and_may_say_no_other(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    assert failed(tmp_path / "a", "no-use") == {"J-17"}
    assert {"J-17", "W-15"} <= failed(tmp_path, "J-17")


@given(st.text(max_size=40), st.binary(max_size=40))
def test_words_of_a_stranger_are_a_finding_and_no_error(token: str, bundle: bytes) -> None:
    is_compact(token)
    svid = pb.JWTSVID(spiffe_id="spiffe://x/a", svid=token.encode("utf-8", "replace").decode())
    found = {row.id: row.result for row in rows([svid], {"spiffe://x": bundle}, SystemClock().now())}
    assert found["J-20"] is Result.FAIL


def test_what_is_spoilt_is_not_what_was_given() -> None:
    assert is_compact(GOOD)
    assert GOOD not in spoilt(GOOD)
    assert {statement for statement, _ in spoilt(GOOD).values()} == {"J-2", "J-5", "J-9", "J-15", "W-17"}
