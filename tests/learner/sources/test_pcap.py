import pathlib
import re
import subprocess

import pytest

from learner.flows import Row
from learner.sources.pcap import Snapshot, directed, read_flows, read_table
from mesh.problems import Diagnostic, Invalid
from tests.learner.sources.accounts import ledger
from tests.tools import needs

DATA = pathlib.Path(__file__).parent.parent / "data"
CAPTURES = ["loopback-tcpdump.pcap", "loopback-tshark.pcapng"]


@pytest.mark.parametrize("name", CAPTURES)
def test_captures_of_other_peoples_tools_are_read(name: str) -> None:
    findings: list[Diagnostic] = []
    rows = read_table(DATA / name, findings, ledger("pcap"))
    assert findings == []
    assert [
        (row.source_ip, row.destination_port, row.protocol, row.packets, row.bytes, row.established) for row in rows
    ] == [
        ("127.0.0.1", 18099, "tcp", 12, 1438, True),
        ("127.0.0.1", 18099, "tcp", 12, 1438, True),
        ("127.0.0.1", 18099, "tcp", 12, 1438, True),
        ("::1", 18098, "tcp", 12, 1674, True),
        ("127.0.0.1", 18097, "udp", 1, 43, False),
    ]
    assert len(list(read_flows(DATA / name, [], ledger("pcap")))) == 5


@pytest.mark.peer
@needs("tshark")
@pytest.mark.parametrize("name", CAPTURES)
def test_the_table_equals_tsharks(name: str) -> None:
    done = subprocess.run(
        ["tshark", "-r", DATA / name, "-q", "-z", "conv,tcp"], capture_output=True, text=True, check=True
    )
    theirs = {
        (match[1], match[2], int(match[3]), int(match[4]))
        for match in re.finditer(
            r"^(\S+)\s+<->\s+(\S+)(?:\s+\d+\s+\d+ bytes){2}\s+(\d+)\s+(\d+) bytes", done.stdout, re.MULTILINE
        )
    }
    ours = {
        (f"{row.source_ip}:{row.source_port}", f"{row.destination_ip}:{row.destination_port}", row.packets, row.bytes)
        for row in read_table(DATA / name, [], ledger("pcap"))
        if row.protocol == "tcp"
    }
    assert ours == theirs
    assert len(theirs) == 4


def test_what_was_skipped_or_is_ambiguous_is_said(tmp_path: pathlib.Path) -> None:
    from tests.learner.test_flows import frame
    from tests.learner.test_packets import ipv4, pcap

    path = tmp_path / "x.pcap"
    path.write_bytes(pcap("<", 0xA1B2C3D4, 7, ipv4(b"", 1), frame(1, 0x10).data))
    findings: list[Diagnostic] = []
    assert list(read_flows(path, findings, ledger("pcap"))) == []
    assert [item.code for item in findings] == ["LM4011", "LM4012"]


def test_a_file_that_is_no_capture_is_a_problem(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x").write_text("hello")
    with pytest.raises(Invalid, match="LM4010"):
        read_table(tmp_path / "x", [], ledger("pcap"))
    with pytest.raises(Invalid, match="LM4001"):
        read_table(tmp_path / "none", [], ledger("pcap"))


def test_a_listener_that_the_capture_proves_tells_the_direction_of_older_conversations() -> None:
    def row(source: tuple[str, int], destination: tuple[str, int], *, is_ambiguous: bool) -> Row:
        return Row(*source, *destination, "tcp", 3, 180, 0, 1, True, is_ambiguous)

    db, web, other = ("10.0.0.2", 5432), ("10.0.0.1", 40000), ("10.0.0.3", 40001)
    new = row(other, db, is_ambiguous=False)
    assert directed([new, row(db, web, is_ambiguous=True)])[1] == row(web, db, is_ambiguous=False)
    assert directed([new, row(web, db, is_ambiguous=True)])[1] == row(web, db, is_ambiguous=False)
    unknown = row(web, other, is_ambiguous=True)
    assert directed([new, unknown])[1] == unknown
    both = row(db, ("10.0.0.9", 80), is_ambiguous=True)
    assert directed([new, row(other, ("10.0.0.9", 80), is_ambiguous=False), both])[2] == both


def test_a_snapshot_of_sockets_tells_the_direction_where_no_packet_does() -> None:
    def row(source: tuple[str, int], destination: tuple[str, int], protocol: str, *, is_ambiguous: bool) -> Row:
        return Row(*source, *destination, protocol, 3, 180, 0, 1, True, is_ambiguous)

    db, web, dns = ("10.0.0.2", 5432), ("10.0.0.1", 40000), ("10.0.0.3", 53)
    snapshot = Snapshot(frozenset({("tcp", web, db), ("udp", web, dns)}))
    right = row(web, db, "tcp", is_ambiguous=False)
    for found in (row(web, db, "tcp", is_ambiguous=True), row(db, web, "tcp", is_ambiguous=True)):
        assert directed([found], snapshot) == [right]
    assert directed([row(dns, web, "udp", is_ambiguous=False)], snapshot) == [row(web, dns, "udp", is_ambiguous=False)]
    # a SYN says more than a list of sockets: the same ports may be used again
    proven = row(db, web, "tcp", is_ambiguous=False)
    assert directed([proven], snapshot) == [proven]
    unknown = row(db, ("10.0.0.7", 1), "tcp", is_ambiguous=True)
    assert directed([unknown], snapshot) == [unknown]
