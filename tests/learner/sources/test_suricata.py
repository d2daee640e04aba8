import json
import pathlib

from tests.learner.sources.accounts import read_text, seen


def row(kind: str, flow_id: int, **facts: object) -> str:
    """An event by the fields of Suricata's documentation."""
    return json.dumps(
        {
            "timestamp": "2026-05-01T10:00:01.250000+0200",
            "flow_id": flow_id,
            "event_type": kind,
            "src_ip": "10.0.0.1",
            "src_port": 40000,
            "dest_ip": "10.0.0.2",
            "dest_port": 8080,
            "proto": "TCP",
        }
        | facts
    )


def flow(
    flow_id: int, state: str = "closed", *, syn: bool = True, back: int = 5, flags_back: str = "1b", **facts: object
) -> str:
    return row(
        "flow",
        flow_id,
        flow={
            "pkts_toserver": 6,
            "pkts_toclient": back,
            "start": "2026-05-01T10:00:00.000000+0200",
            "end": "2026-05-01T10:00:01.000000+0200",
            "state": "closed",
        },
        tcp={"syn": syn, "state": state, "tcp_flags_tc": flags_back},
        **facts,
    )


def test_flows_and_requests_are_read_once(tmp_path: pathlib.Path) -> None:
    text = "\n".join(
        [
            row("http", 1, http={"http_method": "GET", "url": "/orders?x=1", "status": 200, "hostname": "db"}),
            flow(1, app_proto="http"),
            flow(2, dest_port=5432),
            flow(3, "syn_sent", back=1, flags_back="14", dest_port=5433),
            flow(4, "established", syn=False, dest_port=5434),
            row(
                "flow",
                5,
                proto="UDP",
                dest_port=53,
                flow={"pkts_toclient": 1, "start": "2026-05-01T10:00:00.000000+0000"},
            ),
            row("dns", 6),
            row("flow", 7, proto="ICMP"),
            flow(8, flags_back="zz"),
            "{",
        ]
    )
    flows, account = read_text(tmp_path, text)
    assert account.source == "suricata"
    assert [seen(item) for item in flows] == [
        "10.0.0.1 > 10.0.0.2:8080 http GET /orders 200 yes",
        "10.0.0.1 > 10.0.0.2:5432 tcp yes",
        "10.0.0.1 > 10.0.0.2:5433 tcp no",
        "10.0.0.1 > 10.0.0.2:53 udp yes",
    ]
    assert (account.ambiguous, account.seen) == (1, 10)
    assert account.skipped["dns events"] == 1


def test_what_the_kernel_dropped_is_lost(tmp_path: pathlib.Path) -> None:
    rows = [
        json.dumps(
            {
                "timestamp": "2026-05-01T10:00:01.250000+0200",
                "event_type": "stats",
                "stats": {"capture": {"kernel_packets": 100, "kernel_drops": drops}},
            }
        )
        for drops in (3, 7, 2)
    ]
    _, account = read_text(tmp_path, "\n".join(rows))
    assert (account.source, account.lost) == ("suricata", 9)
