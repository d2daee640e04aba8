"""What the data plane says when it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest

from enforcer.native import answer
from enforcer.native.http1 import ResponseReader
from enforcer.native.judge import denied


def read(data: bytes, method: str = "GET") -> tuple[int, dict[str, str], bool]:
    reader = ResponseReader()
    reader.feed(data)
    head = reader.head(method)
    assert head is not None
    body = reader.body()
    assert reader.is_done
    return head.status, json.loads(body) if body else {}, head.keep_alive


@pytest.mark.parametrize(
    ("code", "status"),
    [("LM3101", 426), ("LM3105", 431), ("LM3108", 403), ("LM3112", 408), ("LM3113", 417), ("LM3210", 403),
     ("LM3221", 503), ("LM3300", 503), ("LM3302", 502), ("LM1013", 403)],
)  # fmt: skip
def test_a_problem_has_its_status_and_ends_the_connection(code: str, status: int) -> None:
    found, body, keep_alive = read(answer.problem(code, {}, record="01ABC"))
    assert (found, body["code"], keep_alive) == (status, code, False)
    assert body["why"] == "limen audit show 01ABC"


def test_a_denial_names_what_decided() -> None:
    decision = dataclasses.replace(denied("LM2301", "sha256:x"), tier="app", policy="shop-db", rule="no-admin")
    status, body, keep_alive = read(answer.denial(decision, record="01ABC", close=False, with_body=True))
    assert (status, keep_alive) == (403, True)
    assert (body["tier"], body["policy"], body["rule"], body["snapshot"]) == ("app", "shop-db", "no-admin", "sha256:x")
    assert body["message"]
    assert body["help"]


def test_a_denied_head_request_has_no_body() -> None:
    data = answer.denial(denied("LM2302"), record="01ABC", close=True, with_body=False)
    assert read(data, "HEAD") == (403, {}, False)
