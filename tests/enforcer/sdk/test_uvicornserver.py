"""uvicorn behind mutual TLS, as strangers' clients see it."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from enforcer.sdk import Limen
from enforcer.sdk.uvicornserver import config
from mesh.problems import Invalid
from tests.enforcer.native.harness import ALLOW_WEB, DB, OPS, WEB, Realm, policies, read_response
from tests.enforcer.sdk.conftest import Teller, app, connect

Make = Callable[..., tuple[Limen, Teller]]
REQUEST = b"GET /orders HTTP/1.1\r\nHost: db.corp.test\r\n"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_caller_is_known_through_a_rotation_and_denied_from_its_next_request_on(
    limens: Make, corp: Realm, serving: Any, loop: str
) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    served = serving(limen, loop)
    with connect(served.port, corp.svid(WEB), corp.bundle) as sock:
        for trust in (2, 3):
            sock.sendall(REQUEST + b"X-Forwarded-For: 9.9.9.9\r\n\r\n")
            status, body = read_response(sock)
            assert (status, json.loads(body)) == (200, {"caller": WEB, "path": "/orders", "client": "127.0.0.1"})
            teller.identify(corp.svid(DB), corp.bundle, trust=trust)
        teller.policy(policies(), 2)
        sock.sendall(REQUEST + b"\r\n")
        status, body = read_response(sock)
        assert status == 403
        assert json.loads(body)["why"].startswith("limen audit show ")
        teller.policy(policies(ALLOW_WEB), 3)
        sock.sendall(REQUEST + b"\r\n")
        assert read_response(sock)[0] == 200


def test_two_callers_are_not_taken_for_each_other(limens: Make, corp: Realm, serving: Any) -> None:
    limen, _ = limens(DB, policies(ALLOW_WEB))
    served = serving(limen)
    with (
        connect(served.port, corp.svid(WEB), corp.bundle) as web,
        connect(served.port, corp.svid(OPS), corp.bundle) as ops,
    ):
        for _ in range(3):
            web.sendall(REQUEST + b"\r\n")
            ops.sendall(REQUEST + b"\r\n")
            assert (read_response(web)[0], read_response(ops)[0]) == (200, 403)


def test_a_peer_whose_bundle_was_removed_gets_no_answer(limens: Make, corp: Realm, evil: Realm, serving: Any) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    teller.identify(corp.svid(DB), corp.bundle, evil.bundle, trust=2)
    served = serving(limen)
    with connect(served.port, evil.svid("spiffe://evil.test/x"), corp.bundle) as sock:
        sock.sendall(REQUEST + b"\r\n")
        assert read_response(sock)[0] == 403
        teller.identify(corp.svid(DB), corp.bundle, trust=3)
        with contextlib.suppress(OSError):
            sock.sendall(REQUEST + b"\r\n")
            assert read_response(sock)[0] == 0


def test_the_port_is_the_one_that_was_asked_for(limens: Make) -> None:
    limen, _ = limens(DB, policies(ALLOW_WEB))
    made = config(app, limen)
    assert (made.host, made.port, made.proxy_headers) == ("127.0.0.1", 8080, False)
    for changed in ({"proxy_headers": True}, {"http": "h11"}, {"ssl_context_factory": None}):
        with pytest.raises(TypeError):
            config(app, limen, **changed)
    limen._known().serves = ()
    with pytest.raises(Invalid, match="LM5240"):
        config(app, limen)
