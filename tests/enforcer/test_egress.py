import pytest

from enforcer.egress import Exempt, parse_exempt, write_exempt
from mesh.problems import Invalid

GOOD = {
    "service:db": Exempt(kind="service", what="db", port=None),
    "service:db:8443": Exempt(kind="service", what="db", port=8443),
    "service:spiffe://corp.test/ns/shop/sa/db:8443": Exempt(
        kind="service", what="spiffe://corp.test/ns/shop/sa/db", port=8443
    ),
    "dns:api.example.com:443": Exempt(kind="dns", what="api.example.com", port=443),
    "dns:*.example.com:443": Exempt(kind="dns", what="*.example.com", port=443),
    "cidr:10.0.0.0/8": Exempt(kind="cidr", what="10.0.0.0/8", port=None),
    "cidr:[fd00::/8]:443": Exempt(kind="cidr", what="fd00::/8", port=443),
    "udp:10.0.0.53/32:53": Exempt(kind="udp", what="10.0.0.53/32", port=53),
}


@pytest.mark.parametrize("text", GOOD)
def test_every_form_is_read_and_written_back(text: str) -> None:
    assert parse_exempt(text) == GOOD[text]
    assert write_exempt(GOOD[text]) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "db",
            "dns:api.example.com",
            "dns:*:443",
            "dns:a.*.com:443",
            "dns:a..b:443",
            "dns:a b:443",
            "cidr:10.0.0.1/8",
        ),
        *("cidr:fd00::/8", "cidr:x", "udp:10.0.0.0/8", "service:", "service:db:0", "service:db:65536", "service:db:x"),
        *("dns:api.example.com:443\n", "cidr:10.0.0.0/8:443 accept", "tcp:10.0.0.0/8:1"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="LM3704"):
        parse_exempt(text)


@pytest.mark.parametrize(
    ("text", "address", "port", "is_covered"),
    [
        ("cidr:10.0.0.0/8", "10.1.2.3", 1, True),
        ("cidr:10.0.0.0/8:443", "10.1.2.3", 1, False),
        ("cidr:10.0.0.0/8", "11.0.0.0", 1, False),
        ("cidr:10.0.0.0/8", "fd00::1", 1, False),
        ("cidr:[fd00::/8]", "fd00::1", 1, True),
        ("udp:10.0.0.0/8:1", "10.1.2.3", 1, False),
    ],
)
def test_a_network_covers_its_addresses(text: str, address: str, port: int, is_covered: bool) -> None:
    assert parse_exempt(text).covers_address(address, port) is is_covered


@pytest.mark.parametrize(
    ("text", "name", "port", "is_covered"),
    [
        ("dns:api.example.com:443", "API.example.com", 443, True),
        ("dns:api.example.com:443", "api.example.com.", 443, True),
        ("dns:api.example.com:443", "api.example.com", 444, False),
        ("dns:api.example.com:443", "x.api.example.com", 443, False),
        ("dns:*.example.com:443", "a.b.example.com", 443, True),
        ("dns:*.example.com:443", "example.com", 443, False),
        ("dns:*.example.com:443", ".example.com", 443, False),
        ("dns:*.example.com:443", "evilexample.com", 443, False),
    ],
)
def test_a_name_covers_itself_and_a_star_what_is_below(text: str, name: str, port: int, is_covered: bool) -> None:
    assert parse_exempt(text).covers_name(name, port) is is_covered
