import datetime as dt
import os
import pathlib

import pytest

from learner.sources import conntrack
from learner.sources.conntrack import read_entry
from tests.learner.sources.accounts import DATA, read, read_text, seen

CLUSTER_IP, REFUSED = "10.96.0.1 > 127.0.0.1:18080 tcp yes", "127.0.0.1 > 127.0.0.1:9 tcp no"
UNANSWERED = ["127.0.0.1 > 127.0.0.1:5353 udp no", "::1 > ::1:5353 udp no"]


@pytest.mark.parametrize("name", ["events.txt", "events.xml"])
def test_events_of_the_real_tool_are_connections_with_the_translated_callee(name: str) -> None:
    flows, account, findings = read(DATA / "conntrack" / name)
    assert account.source == "conntrack"
    assert [seen(flow) for flow in flows] == [REFUSED, CLUSTER_IP, *UNANSWERED]
    assert findings == []
    assert account.seen == 11
    assert flows[1].start.replace(microsecond=0) == dt.datetime(2026, 12, 1, 0, 52, 33, tzinfo=dt.UTC)


@pytest.mark.parametrize("name", ["table.txt", "extended.txt", "started.txt", "table.xml"])
def test_a_listing_of_the_real_tool_is_what_was_open_then(name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / name
    path.write_bytes((DATA / "conntrack" / name).read_bytes())
    os.utime(path, (1_780_000_000, 1_780_000_000))
    flows, account, _ = read(path)
    assert account.source == "conntrack"
    assert sorted(seen(flow) for flow in flows) == sorted([CLUSTER_IP, *UNANSWERED])
    assert (flows[0].start.timestamp() == 1_780_000_000) is (name != "started.txt")


def test_lost_events_and_other_protocols_are_counted(tmp_path: pathlib.Path) -> None:
    unanswered = "src=1.1.1.1 dst=1.1.1.2 sport=4 dport=5 [UNREPLIED] src=1.1.1.2 dst=1.1.1.1 sport=5 dport=4"
    text = "\n".join(
        [
            f"[1796086353.444346]\t    [NEW] tcp      6 120 SYN_SENT {unanswered}",
            "WARNING: We have hit ENOBUFS! We are losing events.",
            "[1796086353.444346]\t    [NEW] icmp     1 30 src=1.1.1.1 dst=1.1.1.2 type=8 code=0 id=4 [UNREPLIED]",
            "conntrack v1.4.7 (conntrack-tools): 3 flow events have been shown.",
            "[1796086353.444346]\t    [NEW] tcp      6 120 SYN_SENT src=1.1.1.1",
            "nonsense",
        ]
    )
    flows, account = read_text(tmp_path, text)
    assert [seen(flow) for flow in flows] == ["1.1.1.1 > 1.1.1.2:5 tcp no"]
    assert (account.lost, account.unreadable, account.seen) == (1, 2, 4)
    assert account.skipped["neither TCP nor UDP"] == 1


@pytest.mark.parametrize(
    "text",
    [
        b'<!DOCTYPE x [<!ENTITY a "b">]><flow></flow>',
        b"<flow>&a;</flow>",
        b"<flow><meta direction='original'></meta></flow>",
        b"<flow",
        b"tcp 6 src=x dst=y sport=1 dport=2 src=x dst=y sport=1 dport=2",
    ],
    ids=["entity", "reference", "half", "cut", "no-address"],
)
def test_what_conntrack_does_not_write_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        read_entry(text)


def test_memory_is_bounded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "MAX_OPEN", 4)
    text = "\n".join(
        f"tcp 6 9 ESTABLISHED src=1.1.1.1 dst=1.1.1.2 sport={port} dport=5 "
        f"src=1.1.1.2 dst=1.1.1.1 sport=5 dport={port} [ASSURED] use=1"
        for port in range(1000, 1050)
    )
    assert len(read_text(tmp_path, text)[0]) == 50
