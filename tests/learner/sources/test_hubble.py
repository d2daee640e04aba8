import json
import pathlib

import pytest

from learner.sources import hubble
from tests.learner.sources.accounts import read_text, seen

A, B = ("10.0.0.1", 40000), ("10.0.0.2", 8080)


def packet(
    source: tuple[str, int], destination: tuple[str, int], flags: dict[str, bool], **facts: object
) -> dict[str, object]:
    """A flow by the fields of cilium's flow.proto."""
    return {
        "flow": {
            "time": "2026-05-01T10:00:00.123456789Z",
            "verdict": "FORWARDED",
            "IP": {"source": source[0], "destination": destination[0], "ipVersion": "IPv4"},
            "l4": {"TCP": {"source_port": source[1], "destination_port": destination[1], "flags": flags}},
            "source": {"identity": 7, "namespace": "shop", "pod_name": "web-1"},
            "destination": {"identity": 8, "namespace": "shop", "pod_name": "db-1"},
            "Type": "L3_L4",
            "node_name": "n",
        }
        | facts,
        "node_name": "n",
        "time": "2026-05-01T10:00:00.123456789Z",
    }


def http(verdict: str, kind: str, code: int | None) -> dict[str, object]:
    ends = (B, A) if kind == "RESPONSE" else (A, B)
    found = {"method": "GET", "url": "http://db:8080/orders/1?x=2", "protocol": "HTTP/1.1"}
    if code is not None:
        found["code"] = code  # type: ignore[assignment]
    return packet(*ends, {}, Type="L7", verdict=verdict, l7={"type": kind, "http": found})


def lines(*rows: dict[str, object]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_a_reply_proves_an_answer_and_a_reset_does_not(tmp_path: pathlib.Path) -> None:
    other = ("10.0.0.1", 40001)
    flows, account = read_text(
        tmp_path,
        lines(
            packet(A, B, {"SYN": True}, is_reply=False),
            packet(B, A, {"SYN": True, "ACK": True}, is_reply=True),
            packet(A, B, {"ACK": True}, is_reply=False),
            packet(other, B, {"SYN": True}, is_reply=False),
            packet(B, other, {"RST": True}, is_reply=True),
            packet(A, ("10.0.0.3", 9), {"SYN": True}, is_reply=False, verdict="DROPPED"),
            packet(("10.0.0.9", 1), ("10.0.0.8", 2), {"ACK": True}),
        ),
    )
    assert account.source == "hubble"
    assert [seen(flow) for flow in flows] == [
        "10.0.0.1 > 10.0.0.2:8080 tcp yes",
        "10.0.0.1 > 10.0.0.2:8080 tcp no",
        "10.0.0.1 > 10.0.0.3:9 tcp no denied",
    ]
    assert flows[0].replica == "web-1"
    assert account.ambiguous == 1


def test_of_http_the_response_is_taken_and_a_denied_request(tmp_path: pathlib.Path) -> None:
    text = lines(
        http("FORWARDED", "REQUEST", None), http("FORWARDED", "RESPONSE", 404), http("DROPPED", "REQUEST", 403)
    )
    flows, account = read_text(tmp_path, text)
    assert [seen(flow) for flow in flows] == [
        "10.0.0.1 > 10.0.0.2:8080 http GET /orders/1 404 yes",
        "10.0.0.1 > 10.0.0.2:8080 http GET /orders/1 403 no denied",
    ]
    assert sum(account.skipped.values()) == 1


def test_lost_events_are_counted(tmp_path: pathlib.Path) -> None:
    row = {"lost_events": {"source": "HUBBLE_RING_BUFFER", "num_events_lost": "17"}, "node_name": "n"}
    _, account = read_text(tmp_path, lines(row))
    assert (account.source, account.lost) == ("hubble", 17)


def test_memory_is_bounded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubble, "MAX_OPEN", 5)
    rows = [packet(("10.0.0.1", 1000 + index), B, {"SYN": True}, is_reply=False) for index in range(50)]
    assert len(read_text(tmp_path, lines(*rows))[0]) == 50
