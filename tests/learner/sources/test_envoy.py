import json
import pathlib

from tests.learner.sources.accounts import DATA, read, read_text, seen

CART, DB = "spiffe://corp.test/ns/shop/sa/cart", "spiffe://corp.test/ns/shop/sa/db"
# by data/make_envoy.py: ports were free ones
SERVED = [
    "127.0.0.1 > 127.0.0.1:42561 http GET /orders/17 200 yes",
    "127.0.0.1 > 127.0.0.1:42561 http POST /orders 200 yes",
    "127.0.0.1 > 127.0.0.1:42561 http GET /missing 404 yes",
    "127.0.0.1 > 127.0.0.1:42561 grpc POST /shop.Orders/Get 200 yes",
    "127.0.0.1 > 127.0.0.1:47789 http GET /stock 200 yes",
    "127.0.0.1 > 127.0.0.1:47789 http GET /stock 200 yes",
    "127.0.0.1 > 127.0.0.1:40727 http GET / 200 yes",
    "127.0.0.1 > 127.0.0.1:47789 http GET / 200 yes",
    "127.0.0.1 > 127.0.0.1:58555 tcp yes",
    "127.0.0.1 > 127.0.0.1:47789 tcp yes",
    "127.0.0.1 > 127.0.0.1:55943 tcp no",
    "127.0.0.1 > 127.0.0.1:52035 tcp no",
]
ROW = {
    "start_time": "2026-05-01T10:00:00.000Z",
    "downstream_remote_address": "10.0.0.1:4000",
    "downstream_local_address": "10.0.0.2:8080",
    "upstream_cluster": "inbound|8080||",
    "upstream_host": "10.0.0.2:8080",
    "method": "GET",
    "path": "/",
    "response_code": 200,
}


def test_what_a_real_envoy_wrote_is_read() -> None:
    flows, account, findings = read(DATA / "envoy" / "access.jsonl")
    assert account.source == "envoy"
    assert [seen(flow) for flow in flows] == SERVED
    assert [(flow.source, flow.destination) for flow in flows[:5]] == [(CART, DB)] * 4 + [(None, None)]
    assert findings == []
    assert (account.seen, account.flows) == (9, 12)


def test_the_keys_of_istio_are_enough_and_a_forwarded_address_is_not_taken() -> None:
    flows, account, _ = read(DATA / "envoy" / "istio.jsonl")
    expected = [line.replace("grpc", "http") for line in SERVED]
    expected[6] = "None > 127.0.0.1:40727 http GET / 200 yes"
    assert [seen(flow) for flow in flows] == expected
    assert account.is_complete


def test_denied_intermediate_and_broken_entries_are_told_apart(tmp_path: pathlib.Path) -> None:
    rows = [
        ROW | {"response_code": 403, "response_code_details": "rbac_access_denied_matched_policy[none]"},
        ROW | {"access_log_type": "DownstreamPeriodic"},
        ROW | {"access_log_type": "DownstreamEnd", "duration": 5},
        ROW | {"start_time": "never"},
        ROW | {"response_code": "many"},
        {key: value for key, value in ROW.items() if key != "start_time"},
    ]
    flows, account = read_text(tmp_path, "\n".join(json.dumps(row) for row in rows), "envoy")
    assert [seen(flow) for flow in flows] == [
        "10.0.0.1 > 10.0.0.2:8080 http GET / 403 no denied",
        "10.0.0.1 > 10.0.0.2:8080 http GET / 200 yes",
    ]
    assert account.skipped == {"of an exchange that goes on": 1, "unreadable": 3}
    assert account.seen == 6
