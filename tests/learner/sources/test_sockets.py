import datetime as dt
import os
import pathlib

import pytest

from learner.sources.sockets import connections, entry_of
from tests.learner.sources.accounts import DATA, ledger, read, read_text, seen

CALLS = [
    "10.0.0.1 > 10.0.0.2:5432 tcp yes",
    "10.0.0.1 > 10.0.0.2:5432 tcp yes",
    "10.0.0.1 > 10.0.0.2:8080 tcp yes",
]


@pytest.mark.parametrize("name", ["ss.txt", "ss-extended.txt", "ss-users.txt", "both"])
def test_listings_of_the_real_tools_are_connections_with_their_direction(name: str, tmp_path: pathlib.Path) -> None:
    folder = DATA / "sockets"
    path = tmp_path / "listing"
    names = ["proc-net-tcp", "proc-net-tcp6"] if name == "both" else [name]
    path.write_bytes(b"".join((folder / item).read_bytes() for item in names))
    os.utime(path, (1_780_000_000, 1_780_000_000))
    flows, account, findings = read(path)
    assert account.source == "sockets"
    assert [seen(flow) for flow in flows] == CALLS
    assert sorted(flow.source_port or 0 for flow in flows) == [40001, 40002, 40003]
    assert {flow.start.timestamp() for flow in flows} == {1_780_000_000}
    assert account.skipped == {"a socket that listens": 2, "the other end of a connection of this host": 3}
    assert [item.code for item in findings] == ["LM4016"]


def test_a_listing_without_listeners_tells_no_direction(tmp_path: pathlib.Path) -> None:
    text = "ESTAB 0 0 10.0.0.1:40001 10.0.0.2:5432\nSYN-SENT 0 1 10.0.0.1:40002 10.0.0.2:9\n"
    flows, account = read_text(tmp_path, text)
    assert [seen(flow) for flow in flows] == ["10.0.0.1 > 10.0.0.2:9 tcp no"]
    assert account.ambiguous == 1


def test_datagram_sockets_without_a_peer_and_broken_lines_are_counted(tmp_path: pathlib.Path) -> None:
    text = "\n".join(  # noqa: FLY002  a line each
        [
            "udp   UNCONN 0 0 0.0.0.0:53 0.0.0.0:*",
            "udp   ESTAB  0 0 10.0.0.1%eth0:40000 10.0.0.9:53",
            "tcp   ESTAB  0 0 10.0.0.1:99999 10.0.0.9:53",
            "nonsense",
        ]
    )
    flows, account = read_text(tmp_path, text)
    assert [seen(flow) for flow in flows] == ["10.0.0.1 > 10.0.0.9:53 udp yes"]
    assert (account.unreadable, account.seen) == (2, 4)


def test_sockets_as_the_kernel_lists_them_are_connections_with_their_direction() -> None:
    at = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
    rows = [
        ("tcp", 10, ("::", 443), ("::", 0)),
        ("tcp", 1, ("::ffff:10.0.0.1", 443), ("::ffff:10.0.0.9", 40000)),
        ("tcp", 1, ("10.0.0.1", 50000), ("10.0.0.2", 5432)),
        ("udp", 7, ("0.0.0.0", 53), ("0.0.0.0", 0)),
        ("udp", 1, ("10.0.0.1", 50001), ("10.0.0.3", 53)),
        ("tcp", 12, ("10.0.0.1", 443), ("10.0.0.8", 40001)),
    ]
    account = ledger("sockets")
    flows = connections([entry_of(*row) for row in rows], at, account)
    assert [seen(flow) for flow in flows] == [
        "10.0.0.9 > 10.0.0.1:443 tcp yes",
        "10.0.0.1 > 10.0.0.2:5432 tcp yes",
        "10.0.0.1 > 10.0.0.3:53 udp yes",
        "10.0.0.8 > 10.0.0.1:443 tcp no",
    ]
    assert {flow.start for flow in flows} == {at}
    assert (account.seen, account.flows, account.skipped) == (6, 4, {"a socket that listens": 2})
    with pytest.raises(ValueError, match="no state"):
        entry_of("tcp", 99, ("10.0.0.1", 1), ("10.0.0.2", 2))
