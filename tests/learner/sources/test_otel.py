import json
import pathlib
from typing import Any

import pytest

from learner.sources import otel
from tests.learner.sources.accounts import DATA, read, read_text, seen


def test_what_the_sdk_exported_is_one_exchange_of_both_spans() -> None:
    flows, account, _ = read(DATA / "otel" / "spans.jsonl")
    assert account.source == "otel"
    assert [seen(flow) for flow in flows] == [
        "10.244.0.7 > 10.244.0.8:18080 http GET /orders/17 200 yes",
        "10.244.0.7 > 10.244.0.8:18080 http POST /orders 200 yes",
        "10.244.0.7 > 10.244.0.8:18080 http GET /missing 404 yes",
    ]
    assert [(flow.replica, flow.version) for flow in flows] == [("cart-0", "1.4.0")] * 3
    assert (account.seen, account.flows) == (6, 3)
    # tracestate holds no threshold, so that nobody knows how many traces were left out
    assert account.sampled == 0


def span(kind: int, number: str, parent: str = "", state: str = "ot=th:0", **said: str | int) -> dict[str, Any]:
    return {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": number,
        "parentSpanId": parent,
        "traceState": state,
        "kind": kind,
        "startTimeUnixNano": "1780000000000000000",
        "endTimeUnixNano": "1780000000100000000",
        "attributes": [
            {"key": name, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
            for name, value in said.items()
        ],
    }


def document(*spans: dict[str, Any], **resource: str) -> str:
    facts = [{"key": name, "value": {"stringValue": value}} for name, value in resource.items()]
    return json.dumps({"resourceSpans": [{"resource": {"attributes": facts}, "scopeSpans": [{"spans": list(spans)}]}]})


def test_a_span_alone_says_what_it_knows(tmp_path: pathlib.Path) -> None:
    server = span(
        2, "01", **{"http.method": "GET", "http.target": "/a?b", "net.sock.peer.addr": "10.0.0.1", "net.host.port": 80}
    )
    client = span(
        3,
        "02",
        **{"http.request.method": "GET", "url.full": "http://x/y?z", "server.address": "10.0.0.9", "server.port": 81},
    )
    rpc = span(
        2,
        "03",
        **{
            "rpc.system": "grpc",
            "rpc.service": "shop.Orders",
            "rpc.method": "Get",
            "rpc.grpc.status_code": 7,
            "server.port": 82,
        },
    )
    lone = span(2, "04", **{"http.request.method": "GET", "url.path": "/"})
    inner = span(1, "05")
    broken = span(2, "06", **{"http.request.method": "GET"}) | {"startTimeUnixNano": "x"}
    text = document(server, client, rpc, lone, inner, **{"k8s.pod.ip": "10.0.0.2"}) + "\n" + document(broken)
    flows, account = read_text(tmp_path, text)
    assert sorted(seen(flow) for flow in flows) == [
        "10.0.0.1 > 10.0.0.2:80 http GET /a yes",
        "10.0.0.2 > 10.0.0.9:81 http GET /y ?",
        "None > 10.0.0.2:82 grpc POST /shop.Orders/Get 403 yes",
    ]
    assert account.skipped == {"of no exchange between services": 1, "without a port": 1, "unreadable": 1}
    assert account.sampled == 1


@pytest.mark.parametrize(
    ("state", "sampled"),
    [("ot=th:0", 1), ("ot=th:c", 4), ("x=y,ot=rv:1;th:fd70a4", 100), ("", 0), ("ot=p:8", 0), ("xot=th:c", 0)],
)
def test_the_threshold_of_a_trace_is_its_sampling(state: str, sampled: int, tmp_path: pathlib.Path) -> None:
    row = span(2, "01", state=state, **{"http.request.method": "GET", "server.port": 80})
    assert read_text(tmp_path, document(row))[1].sampled == sampled


def test_memory_is_bounded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "MAX_OPEN", 3)
    rows = [span(3, f"{index:02}", **{"http.request.method": "GET", "server.port": 80}) for index in range(30)]
    assert len(read_text(tmp_path, document(*rows))[0]) == 30


def test_a_document_that_is_laid_out_is_read_too(tmp_path: pathlib.Path) -> None:
    row = span(2, "01", **{"http.request.method": "GET", "server.port": 80})
    flows, account = read_text(tmp_path, json.dumps(json.loads(document(row)), indent=2))
    assert len(flows) == 1
    assert account.source == "otel"
