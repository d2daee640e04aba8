import ipaddress

import pytest

from ca.acme.config import Config, load_config
from mesh.problems import Invalid


def test_nothing_said_is_the_safe_one() -> None:
    assert Config().binding
    for address in ("127.0.0.1", "::1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"):
        assert not Config().may_reach(ipaddress.ip_address(address))
    assert Config().may_reach(ipaddress.ip_address("10.1.2.3"))
    assert not Config().may_reach(ipaddress.ip_address("10.1.2.3"), redirected=True)


def test_a_file_is_read() -> None:
    found = load_config("binding: optional\nnames: [corp.test]\nresolver: 127.0.0.1:5353\nhttp_port: 8080\n", "f")
    assert (found.binding, found.names, found.resolver) == (False, ("corp.test",), ("127.0.0.1", 5353))


@pytest.mark.parametrize(
    "text",
    [
        "binding: optional",
        "binding: no",
        "nmaes: [a]",
        "names: a",
        "names: [a_b]",
        "http_port: 0",
        "days: 400",
        "resolver: localhost",
        "addresses: [x]",
        "- a",
        "names: [a]\nnames: [b]",
        "redirects_to_private: 1",
    ],
)
def test_a_file_with_an_error_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="LM1418"):
        load_config(text, "f")
