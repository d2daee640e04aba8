import pathlib

import pytest

from tests.learner.sources.accounts import DATA, read, read_text, seen
from tests.learner.sources.test_exports import ipfix, template, v5, v5_record

CALLS = ["127.0.0.1 > 127.0.0.1:18099 tcp yes"] * 3


@pytest.mark.parametrize(("name", "records", "ambiguous"), [("v5.bin", 7, 1), ("v9.bin", 9, 2), ("ipfix.bin", 9, 2)])
def test_what_softflowd_exported_is_read(name: str, records: int, ambiguous: int) -> None:
    flows, account, _ = read(DATA / "netflow" / name)
    assert account.source == "netflow"
    assert [seen(flow) for flow in flows] == CALLS
    # one call to a port that nobody else called: nothing tells its direction
    assert (account.seen, account.ambiguous, account.lost, account.sampled) == (records, ambiguous, 0, 1)


def test_the_times_are_those_of_the_capture() -> None:
    starts = {
        name: [flow.start.replace(microsecond=0) for flow in read(DATA / "netflow" / name)[0]]
        for name in ("v5.bin", "v9.bin", "ipfix.bin")
    }
    assert starts["v5.bin"] == starts["ipfix.bin"]
    apart = [abs((a - b).total_seconds()) for a, b in zip(starts["v5.bin"], starts["v9.bin"], strict=True)]
    assert max(apart) <= 1


def test_a_syn_that_was_never_acknowledged_names_its_sender(tmp_path: pathlib.Path) -> None:
    data = v5(
        v5_record("10.0.0.1", 40000, "10.0.0.2", 80, flags=2), v5_record("10.0.0.2", 80, "10.0.0.1", 40000, flags=0x14)
    )
    flows, _ = read_text(tmp_path, data)
    assert [seen(flow) for flow in flows] == ["10.0.0.1 > 10.0.0.2:80 tcp no"]


def test_translated_addresses_are_those_of_the_ends(tmp_path: pathlib.Path) -> None:
    fields = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (6, 1), (226, 4), (228, 2), (152, 8), (153, 8)]
    row = bytes([10, 0, 0, 1, 10, 96, 0, 1]) + (40000).to_bytes(2, "big") + (80).to_bytes(2, "big") + b"\x06\x02"
    row += bytes([10, 244, 0, 9]) + (8080).to_bytes(2, "big") + (1_780_000_000_000).to_bytes(8, "big") * 2
    flows, account = read_text(tmp_path, ipfix(template(300, fields), (300, row)))
    assert account.source == "netflow"
    assert [seen(flow) for flow in flows] == ["10.0.0.1 > 10.244.0.9:8080 tcp no"]
    assert flows[0].start.timestamp() == 1_780_000_000


def test_broken_messages_end_the_reading_and_are_said(tmp_path: pathlib.Path) -> None:
    good = v5(v5_record("10.0.0.1", 40000, "10.0.0.2", 80, flags=2))
    for rest in (good[:-1], b"\0\7" + good, b"\0"):
        flows, account = read_text(tmp_path, good + rest, "netflow")
        assert len(flows) == 1
        assert account.unreadable == 1
