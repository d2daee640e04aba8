import json
import pathlib

import pytest

from learner.sources.formats import FORMATS
from limen.cli.flowinput import FORMAT_NAMES, detect, format_help, read_input
from mesh.problems import Invalid
from tests.learner import worlds

DATA = pathlib.Path(__file__).parent.parent.parent / "learner" / "data"


def test_formats_are_told_from_the_first_bytes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flows"
    path.write_text("\n" + json.dumps(worlds.shop(1)[0].to_json()))
    assert detect(path) == "limen"
    assert detect(DATA / "loopback-tcpdump.pcap") == detect(DATA / "loopback-tshark.pcapng") == "pcap"
    assert len(list(read_input(path, "auto", []))) == 1
    assert len(list(read_input(DATA / "loopback-tcpdump.pcap", "auto", []))) == 5


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"{}", b'{"flow": {}}', b"\xff" * 10, b"2 123 eni-1 10.0.0.1"], ids=str
)
def test_what_is_unknown_is_not_guessed(data: bytes, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(Invalid, match="LM4007"):
        detect(path)


def test_the_help_names_what_was_never_tried() -> None:
    assert {"auto", "limen", "pcap", "envoy", "hubble", "zeek", "vpc", "conntrack", "otel"} <= set(FORMAT_NAMES)
    untried = [item.name for item in FORMATS.values() if item.is_experimental]
    assert all(name in format_help() for name in untried)
    assert not any(name in format_help() for name in ("pcap", "envoy", "conntrack", "netflow"))


def test_a_file_that_is_not_there_is_a_problem(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid, match="LM4001"):
        read_input(tmp_path / "none", "auto", [])
