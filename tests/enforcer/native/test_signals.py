"""What a sidecar counts, and that it is bounded."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest

from enforcer.native.signals import BUCKETS_S, MAX_CALLERS, OTHER, Signals
from tests.enforcer.native.harness import (
    ALLOW_WEB,
    DB,
    HOST,
    OPS,
    WEB,
    Agent,
    App,
    Realm,
    connect,
    eventually,
    inbound_port,
    policies,
    read_response,
)


def taken(signals: Signals) -> dict[str, Any]:
    found = signals.take()
    assert found is not None
    return found


def test_counts_are_handed_over_once() -> None:
    signals = Signals()
    assert signals.take() is None
    signals.request(8080, WEB, "allowed", 200, 0.003)
    signals.request(8080, WEB, "allowed", 204, 99.0)
    signals.request(8080, WEB, "refused", None, None)
    signals.handshake("inbound")
    signals.handshake("outbound", "LM3020")
    signals.shed("LM3303", 3)
    signals.inbound.received += 7
    found = taken(signals)
    assert sorted(found["requests"]) == [[8080, WEB, "allowed", "2xx", 2], [8080, WEB, "refused", "none", 1]]
    assert (found["durations"][BUCKETS_S.index(0.005)], found["durations"][-1], sum(found["durations"])) == (1, 1, 2)
    assert found["seconds"] == pytest.approx(99.003)
    assert sorted(found["handshakes"]) == [["inbound", "", 1], ["outbound", "LM3020", 1]]
    assert (found["shed"], found["bytes"]) == ([["LM3303", 3]], [["inbound", 7, 0], ["outbound", 0, 0]])
    assert signals.take() is None


def test_callers_beyond_the_first_count_together() -> None:
    signals = Signals()
    for number in range(MAX_CALLERS + 9):
        signals.request(8080, f"{WEB}-{number}", "allowed", 200, None)
    rows = {row[1]: row[4] for row in taken(signals)["requests"]}
    assert (len(rows), rows[OTHER], rows[f"{WEB}-0"]) == (MAX_CALLERS + 1, 9, 1)


def test_open_connections_are_told_when_they_change_and_to_whoever_is_new() -> None:
    signals = Signals()
    signals.inbound.open += 1
    assert taken(signals)["open"] == [1, 0]
    assert signals.take() is None
    signals.tell_again()
    assert taken(signals)["open"] == [1, 0]


@pytest.mark.slow
def test_a_sidecar_tells_the_signals_of_what_it_serves(
    sidecars: Callable[..., Any], apps: Callable[..., App], corp: Realm, evil: Realm
) -> None:
    app = apps()
    agent: Agent = sidecars(
        corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},)
    )
    port = inbound_port(agent)
    agent.policy(policies(ALLOW_WEB, port=port))
    for who, status in ((WEB, 200), (OPS, 403)):
        with connect(port, corp.svid(who), corp.bundle) as sock:
            sock.sendall(b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n")
            assert read_response(sock)[0] == status
    with connect(port, corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(b"GET /orders HTTP/1.1\r\n\r\n")
        assert read_response(sock)[0] == 400
    with pytest.raises(ssl.SSLError), connect(port, evil.svid(WEB), corp.bundle) as sock:
        sock.recv(1)

    def told(name: str) -> list[list[Any]]:
        with agent.changed:
            messages = [message for message in agent.heard if message["type"] == "signals"]
        return [row for message in messages for row in message[name]]  # type: ignore[attr-defined]  # rows

    wanted = [
        [port, WEB, "allowed", "2xx", 1], [port, OPS, "denied", "4xx", 1], [port, WEB, "refused", "4xx", 1],
    ]  # fmt: skip
    assert eventually(lambda: all(row in told("requests") for row in wanted))
    assert eventually(lambda: sum(row[2] for row in told("handshakes") if row[:2] == ["inbound", ""]) == 3)
    assert eventually(lambda: any(row[0] == "inbound" and row[1] for row in told("handshakes")))
    assert eventually(lambda: sum(row[1] for row in told("bytes")) > 0 and sum(row[2] for row in told("bytes")) > 0)
    assert eventually(
        lambda: [found["open"] for found in list(agent.heard) if found["type"] == "signals"][-1] == [0, 0]
    )
