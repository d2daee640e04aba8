import json
import pathlib

import pytest
from envoy.service.accesslog.v3 import als_pb2

from learner.sources.als import recognises
from tests.learner.sources.accounts import DATA, read, read_text, seen
from tests.learner.sources.test_envoy import CART, DB, SERVED


@pytest.mark.parametrize("name", ["als.bin", "als.jsonl"])
def test_what_a_real_envoy_streamed_is_read(name: str) -> None:
    flows, account, findings = read(DATA / "envoy" / name)
    assert account.source == "als"
    assert [seen(flow) for flow in flows] == [line.replace("grpc", "http") for line in SERVED]
    assert [(flow.source, flow.destination) for flow in flows[:5]] == [(CART, DB)] * 4 + [(None, None)]
    assert findings == []
    assert account.seen == 9
    assert recognises((DATA / "envoy" / name).read_bytes())


def message() -> als_pb2.StreamAccessLogsMessage:
    found = als_pb2.StreamAccessLogsMessage()
    entry = found.http_logs.log_entry.add()
    common = entry.common_properties
    common.start_time.seconds = 1_780_000_000
    common.downstream_local_address.socket_address.address = "10.0.0.2"
    common.downstream_local_address.socket_address.port_value = 8080
    common.downstream_direct_remote_address.socket_address.address = "10.0.0.1"
    common.downstream_direct_remote_address.socket_address.port_value = 4000
    common.upstream_cluster = "inbound|8080||"
    entry.request.request_method = 1
    entry.request.path = "/a?b"
    entry.response.response_code.value = 200
    return found


def delimited(*messages: als_pb2.StreamAccessLogsMessage) -> bytes:
    out = b""
    for item in messages:
        data = item.SerializeToString()
        assert len(data) < 128
        out += bytes([len(data)]) + data
    return out


def test_sampling_is_accounted_and_what_goes_on_is_left_out(tmp_path: pathlib.Path) -> None:
    sampled, going, denied, two_names = message(), message(), message(), message()
    sampled.http_logs.log_entry[0].common_properties.sample_rate = 0.01
    going.http_logs.log_entry[0].common_properties.intermediate_log_entry = True
    denied.http_logs.log_entry[0].response.response_code_details = "rbac_access_denied"
    for name in ("spiffe://a/b", "spiffe://a/c"):
        peer = two_names.http_logs.log_entry[0].common_properties.tls_properties.peer_certificate_properties
        peer.subject_alt_name.add().uri = name
    flows, account = read_text(tmp_path, delimited(sampled, going, denied, two_names), "als")
    assert [seen(flow) for flow in flows] == [
        "10.0.0.1 > 10.0.0.2:8080 http GET /a 200 yes",
        "10.0.0.1 > 10.0.0.2:8080 http GET /a 200 no denied",
        "10.0.0.1 > 10.0.0.2:8080 http GET /a 200 yes",
    ]
    assert flows[2].source is None
    assert account.sampled == 100
    assert account.skipped == {"of an exchange that goes on": 1}


def test_a_message_that_is_none_is_counted_and_a_length_that_cannot_be_ends_the_reading(tmp_path: pathlib.Path) -> None:
    good = delimited(message())
    flows, account = read_text(tmp_path, good + b"\x03\xff\xff\xff" + good, "als")
    assert len(flows) == 2
    assert account.unreadable == 1
    for rest in (b"\xff\xff\xff\xff\x7f" + good, b"\x70abc", b"\xff" * 11):
        flows, account = read_text(tmp_path, good + rest, "als")
        assert len(flows) == 1
        assert account.unreadable == 1


def test_values_of_unknown_types_are_passed_over(tmp_path: pathlib.Path) -> None:
    row = json.loads((DATA / "envoy" / "als.jsonl").read_text().splitlines()[0])
    entry = row["httpLogs"]["logEntry"][0]
    entry["commonProperties"]["filterStateObjects"] = {"x": {"@type": "type.googleapis.com/of.Nobody"}}
    flows, account = read_text(tmp_path, json.dumps(row))
    assert len(flows) == 1
    assert account.is_complete
