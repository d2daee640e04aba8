import pytest

from enforcer.health import Check, parse_check, write_check
from mesh.problems import Invalid

GOOD = {
    "9100=8080/healthz@10.0.0.0/24": Check(
        address="127.0.0.1", port=9100, app_port=8080, path="/healthz", networks=("10.0.0.0/24",)
    ),
    "0.0.0.0:9100=8080/@10.0.0.7": Check(
        address="0.0.0.0", port=9100, app_port=8080, path="/", networks=("10.0.0.7/32",)
    ),
    "[::]:9100=8080/a/b-c_d~e.json@fd00::/64,10.0.0.0/8": Check(
        address="::", port=9100, app_port=8080, path="/a/b-c_d~e.json", networks=("fd00::/64", "10.0.0.0/8")
    ),
}


@pytest.mark.parametrize("text", GOOD)
def test_every_form_is_read_and_written_back(text: str) -> None:
    assert parse_check(text) == GOOD[text]
    assert parse_check(write_check(GOOD[text])) == GOOD[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9100=8080/healthz",
        "9100=8080/healthz@",
        "9100=8080@10.0.0.0/8",
        "9100=8080healthz@10.0.0.0/8",
        "0=8080/healthz@10.0.0.0/8",
        "9100=0/healthz@10.0.0.0/8",
        "65536=8080/healthz@10.0.0.0/8",
        "9100=8080/healthz?deep=1@10.0.0.0/8",
        "9100=8080/a/../b@10.0.0.0/8",
        "9100=8080/a//b@10.0.0.0/8",
        "9100=8080/%61@10.0.0.0/8",
        "9100=8080/a;b@10.0.0.0/8",
        "9100=8080/healthz@10.0.0.1/8",
        "9100=8080/healthz@0.0.0.0/0",
        "9100=8080/healthz@10.0.0.0/8,::/0",
        "9100=8080/healthz@lb.example.com",
        "9100=8080/healthz@10.0.0.0/8\n",
        "999.0.0.1:9100=8080/healthz@10.0.0.0/8",
        "9100=8080/healthz@" + ",".join(["10.0.0.0/8"] * 65),
        "9100=8080/" + "a" * 5000 + "@10.0.0.0/8",
    ],
)
def test_what_is_not_narrow_or_not_understood_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_check(text)
    assert caught.value.code == "LM3705"


@pytest.mark.parametrize(
    ("address", "is_covered"),
    [
        ("10.1.2.3", True),
        ("11.0.0.1", False),
        ("fd00::1", True),
        ("fd00:1::1", False),
        ("fd00::1%eth0", True),
        ("", False),
        ("x", False),
    ],
)
def test_nobody_but_the_named_networks_is_covered(address: str, is_covered: bool) -> None:
    assert parse_check("9100=8080/healthz@10.0.0.0/8,fd00::/64").covers(address) is is_covered
