import re

import pycef
import pytest
from hypothesis import given

from audit.formats import cef
from mesh.problems import Problem
from tests.audit.formats.samples import SAMPLES, TRACE, any_record, as_json, sample, samples

HEADERS = ("DeviceVendor", "DeviceProduct", "DeviceVersion", "DeviceEventClassID", "Name", "DeviceSeverity")


def parse(line: bytes) -> dict[str, str]:
    """What an independent parser reads; it leaves the escapes of values for its caller to undo."""
    found = pycef.parse(line.decode().removesuffix("\n"))
    assert found is not None
    return found


def is_readable(line: bytes) -> bool:
    r"""Whether the parser can read it: it knows no escapes and no `=` in a header, and none of the bar after `\\\\`."""
    head, _ = by_hand(line.decode().removesuffix("\n"))
    return b"\\\\|" not in line and not any(mark in field for field in head for mark in "\\|=")


def plain(value: str) -> str:
    """A value without its escapes."""
    marks = {"n": "\n", "r": "\r"}
    return re.sub(r"\\(.)", lambda match: marks.get(match[1], match[1]), value)


def by_hand(line: str) -> tuple[list[str], dict[str, str]]:
    """Read header and extension by the specification's own words: an unescaped bar, an unescaped equals sign."""
    *head, extension = re.split(r"(?<!\\)(?:\\\\)*\|", line, maxsplit=7)
    places = list(re.finditer(r"(?:^| )([A-Za-z0-9_]+)(?<!\\)=", extension))
    found = {}
    for place, match in enumerate(places):
        end = places[place + 1].start() if place + 1 < len(places) else len(extension)
        found[match[1]] = plain(extension[match.end() : end])
    return [plain(item) for item in head], found


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "unfriendly texts"])
def test_an_independent_parser_reads_every_sample(name: str) -> None:
    line = next(cef.lines([sample(name)]))
    found = parse(line)
    assert [found[item] for item in HEADERS[:2]] == ["Limen", "Limen"]
    assert found["CEFVersion"] == "0"
    assert found["externalId"] == as_json(sample(name)[1])["id"]
    assert plain(found[cef.RAW]).encode() == sample(name)[1]


@given(any_record())
def test_the_record_survives_whatever_it_holds(item: tuple[int, bytes]) -> None:
    line = next(cef.lines([item]))
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    head, values = by_hand(line.decode().removesuffix("\n"))
    assert (len(head), head[0]) == (7, "CEF:0")
    assert values[cef.RAW].encode() == item[1]
    assert values["externalId"] == as_json(item[1])["id"]
    if is_readable(line):
        assert plain(parse(line)[cef.RAW]).encode() == item[1]


def test_a_request_uses_the_keys_of_the_dictionary() -> None:
    found = parse(next(cef.lines([sample("request")])))
    expected = {
        "act": "allow", "outcome": "success", "src": "10.0.0.1", "dpt": "8080", "app": "http", "requestMethod": "GET",
        "suid": SAMPLES["request"]["caller"], "duid": SAMPLES["request"]["destination"], "reason": "LM2301",
        "DeviceSeverity": "1", "cat": "decision",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert plain(found["request"]) == "/orders/1?page=2"


def test_custom_texts_go_under_their_labels() -> None:
    found = parse(next(cef.lines([sample("request")])))
    # the parser puts a custom value under its label
    flat = " ".join(f"{name}={value}" for name, value in found.items())
    for part in ("shop-db", "orders", "sha256:" + "a" * 64, TRACE):
        assert part in flat
    line = next(cef.lines([sample("request")])).decode()
    assert f"cs6={TRACE} cs6Label=traceId" in line


def test_an_address_of_version_6_has_its_own_key() -> None:
    line = next(cef.lines([sample("request of IPv6")])).decode()
    assert "c6a2=2001:db8::1 c6a2Label=sourceIPv6" in line
    assert " src=" not in line


def test_the_severity_grows_with_the_gravity() -> None:
    found = [
        int(parse(next(cef.lines([sample(name)])))["DeviceSeverity"])
        for name in ("request", "activation", "denied", "lost")
    ]
    assert found == [1, 3, 6, 9]


def test_events_keep_the_order_of_the_log() -> None:
    ids = [as_json(data)["id"] for _, data in samples()]
    assert [by_hand(line.decode())[1]["externalId"] for line in cef.lines(samples())] == ids


def test_a_record_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Problem) as caught:
        list(cef.lines([(7, b"{}")]))
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 7)
