"""Whatever bytes a caller sends, nothing reaches the application behind an exported Envoy that Limen would deny.

This holds for framing too, which Envoy brings into form: what it made of a request is what counts.
"""

import pathlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limen.envoywire import Caller
from mesh.request import Request
from policyengine.decide import Index
from policyengine.model import policy_set_from_json
from tests.bypasses import BYPASSES, WEB, Service, policies
from tests.examples import examples
from tests.limen.test_envoy import App, exported, say
from tests.tools import require_envoy

pytestmark = [pytest.mark.peer, pytest.mark.system, pytest.mark.slow]
SERVICES: tuple[Service, ...] = ("closed", "open", "caseless")
PIECES = (
    b"/", b"//", b"/admin", b"/Admin", b"..", b"/../", b"./", b"%2e", b"%2F", b"%5c", b"%00", b"%25", b"%61", b"?",
    b"\\", b";", b"#", b"*", b" ", b"\t", b"\r\n", b"\n", b"\r", b"\x00", b"\xff", b":", b",", b"~", b"%7e", b"%20",
    b"%C3%A9", b"%ef%bc%8f", b"x-role: admin\r\n", b"Host: evil.test\r\n", b"X-Role: user\r\n", b" admin\r\n",
    b"Cookie: a\r\n", b"Connection: x-role\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 4\r\n",
    b"Upgrade: h2c\r\n", b"x-envoy-original-path: /api/ok\r\n", b"http://evil.test", b"GET ", b"HTTP/1.1\r\n",
    b"\r\n\r\nGET /admin HTTP/1.1\r\nHost: db.corp.test\r\n\r\n",
)  # fmt: skip


@pytest.fixture(scope="module", params=SERVICES)
def behind(request: Any, tmp_path_factory: Any) -> Iterator[tuple[Index, App, Caller, int]]:
    require_envoy()
    from tests.conftest import wait_for

    found = policy_set_from_json(policies(request.param))
    app = App(answer=b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
    folder: pathlib.Path = tmp_path_factory.mktemp("envoy")
    with exported(found, {8080: app}, folder, wait_for) as (caller, ports):
        yield Index(found, "s"), app, caller, ports[8080]
    app.close()


def heard_as(raw: bytes) -> Request:
    """The request that an application was sent, by the letter of RFC 9112: Envoy writes nothing else."""
    head = raw.partition(b"\r\n\r\n")[0].decode("latin-1")
    line, *fields = head.split("\r\n")
    method, target, version = line.split(" ")
    assert version == "HTTP/1.1"
    headers = tuple((name, value.strip(" \t")) for name, _, value in (field.partition(":") for field in fields))
    return Request(
        service="db", port=8080, protocol="http", source=WEB, method=method, path=target, headers=headers,
        peer_ip="127.0.0.1", time=None,
    )  # fmt: skip


def check(behind: tuple[Index, App, Caller, int], raw: bytes) -> int:
    index, app, caller, port = behind
    before = app.checked
    # a request that has not ended is answered by nobody; what is heard later is looked at with the next one
    say(caller, port, (WEB,), raw, "http", wait_s=0.3)
    app.checked = len(app.heard)
    heard = [found for found in app.heard[before : app.checked] if found]
    for found in heard:
        assert index.decide(heard_as(found)).is_allowed, (raw, found)
    return len(heard)


def test_of_the_catalogue_only_what_limen_allows_reaches_the_application(
    behind: tuple[Index, App, Caller, int],
) -> None:
    assert sum(check(behind, bypass.raw) for bypass in BYPASSES) > 10


# INVARIANT: what an application behind Envoy hears is what Limen allows, whatever was sent.
@settings(max_examples=examples(120), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(BYPASSES),
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from(PIECES)), max_size=3),
    st.randoms(),
)
def test_of_damaged_requests_only_what_limen_allows_reaches_the_application(
    behind: tuple[Index, App, Caller, int], bypass: Any, damage: list[tuple[int, bytes]], dice: random.Random
) -> None:
    raw = bypass.raw
    for place, piece in damage:
        at = min(place, len(raw))
        raw = raw[:at] + piece + raw[at + dice.choice((0, 0, len(piece))) :]
    check(behind, raw)
