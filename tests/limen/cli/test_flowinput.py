import json
import pathlib

import pytest

from limen.cli.flowinput import detect, read_input
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


@pytest.mark.parametrize("form", ["envoy", "hubble", "zeek", "vpc", "conntrack", "otel"])
def test_formats_of_later_versions_say_so(form: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid, match="LM0001"):
        read_input(tmp_path / "x", form, [])
    with pytest.raises(Invalid, match="LM4001"):
        read_input(tmp_path / "none", "auto", [])
