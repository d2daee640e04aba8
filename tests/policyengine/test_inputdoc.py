"""The input document of version 1, frozen: these objects may gain fields, and nothing else ever."""

import datetime as dt
import ipaddress
import json

import pytest
from hypothesis import given

from mesh.request import Request
from policyengine.inputdoc import address_key, input_of, network_keys
from tests.policyengine.corners import CART, NOW, TD, ask, token
from tests.policyengine.strategies import requests


def test_document_of_a_plain_request_is_frozen() -> None:
    request = ask(path="/a/%62?q", headers=(("X-Role", " dev "), ("Cookie", "a, b")), claims=token(n=[1], o={"a": 1}))
    assert input_of(request) == {
        "version": 1,
        "service": "db",
        "port": 8080,
        "protocol": "http",
        "parsed": True,
        "source": CART,
        "method": "GET",
        "host": "db.corp.test",
        "path": ["a", "b"],
        "path_folded": ["a", "b"],
        "path_folds": True,
        "ambiguous": {},
        "headers": {"x-role": {"value": "dev", "single": True}, "cookie": {"value": "a, b", "single": False}},
        "claims": {"iss": ["https://idp.test"], "n": [1], "o": None},
        "token": {"iss": "https://idp.test", "n": [1], "o": {"a": 1}},
        "peer_ip": "10.1.2.3",
        "peer_ip_key": "4:0a010203",
        "forwarded_ip": "",
        "forwarded_ip_key": "",
        "time": 1795521600000000000,
        "unknown": [],
    }


@pytest.mark.parametrize(
    ("request_", "field", "value"),
    [
        pytest.param(ask(source=f"{CART}/"), "source", None, id="an-identity-that-is-none"),
        pytest.param(ask(service=f"{TD}/x/"), "service", None, id="a-service-that-is-no-identity"),
        pytest.param(ask(path="/a;b"), "path", None, id="an-ambiguous-path-is-unknown"),
        pytest.param(ask(path="/A/B"), "path_folded", ["a", "b"], id="a-path-for-services-that-ignore-case"),
        pytest.param(ask(path="/%E2%84%AA"), "path_folded", None, id="a-letter-whose-case-is-ambiguous"),
        pytest.param(ask(path="/%E2%84%AA"), "path_folds", False, id="which-is-said"),
        pytest.param(ask(path="/%E2%84%AA"), "path", ["\u212a"], id="and-matters-to-nobody-else"),
        pytest.param(ask(path="/A", unknown=frozenset({"path"})), "path_folded", None, id="an-unknown-path"),
        pytest.param(ask(host=None), "host", "", id="no-host-is-absent"),
        pytest.param(ask(host="a b"), "host", None, id="a-malformed-host-is-unknown"),
        pytest.param(ask(method="G T"), "method", None, id="a-malformed-method-is-unknown"),
        pytest.param(ask(protocol="tcp"), "path", None, id="a-connection-has-no-path"),
        pytest.param(ask(claims=None), "claims", None, id="no-token"),
        pytest.param(ask(peer_ip="::ffff:10.1.2.3"), "peer_ip", "10.1.2.3", id="mapped-address"),
        pytest.param(ask(peer_ip="fe80::1%eth0"), "peer_ip", "fe80::1", id="an-address-has-no-zone"),
        pytest.param(ask(peer_ip="10.1.2.3", unknown=frozenset({"peer_ip"})), "peer_ip", None, id="unknown-address"),
        pytest.param(ask(time=None), "time", None, id="unknown-time"),
        pytest.param(ask(time=dt.datetime(2300, 1, 1, tzinfo=dt.UTC)), "time", None, id="time-beyond-64-bits"),
        pytest.param(ask(headers=(("x", "\x01"),)), "headers", {"x": {"value": None, "single": True}}, id="bad-value"),
        pytest.param(ask(unknown=frozenset({"headers.X-A"})), "unknown", ["headers.x-a"], id="unknown-header"),
        pytest.param(ask(claims={"a": ["\ud800", "b"]}), "claims", {"a": ["b"]}, id="text-that-is-no-text"),
    ],
)
def test_what_is_unknown_or_absent(request_: Request, field: str, value: object) -> None:
    assert input_of(request_)[field] == value


def test_a_path_that_has_no_canonical_form_says_why() -> None:
    assert "path" in input_of(ask(path="/a;b"))["ambiguous"]  # type: ignore[operator]  # an object


# INVARIANT: an input document is JSON that UTF-8 can say, for every request.
@given(requests)
def test_document_is_json(request: Request) -> None:
    document = input_of(request)
    assert json.loads(json.dumps(document, ensure_ascii=False).encode()) == document


def test_keys_sort_as_addresses_do() -> None:
    texts = ["9.255.255.255", "10.0.0.0", "10.0.0.10", "192.0.2.1", "::1", "fd00::"]
    keys = [address_key(text) for text in texts]
    assert keys == sorted(str(key) for key in keys)
    first, last = network_keys(ipaddress.ip_network("10.0.0.0/8"))
    assert (first, last) == ("4:0a000000", "4:0affffff")
    assert NOW.tzinfo is not None
