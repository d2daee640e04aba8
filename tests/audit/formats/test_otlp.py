import base64
import json
import os
import pathlib
import subprocess

import pytest
from hypothesis import given, settings

from audit.formats import otlp
from mesh.problems import Problem
from tests.audit.formats.samples import SAMPLES, SPAN, TRACE, any_record, as_json, leaves, sample, samples
from tests.audit.making import START

# the protobuf classes of OpenTelemetry's own package, which cannot be installed beside xds-protos, read standard input
# strictly and say in their own words what they found
READS = """
import sys
from google.protobuf.json_format import MessageToDict, Parse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
import base64, json
for line in sys.stdin.buffer:
    # OTLP's JSON has ids in hexadecimal, where protobuf's own has base64
    document = json.loads(line)
    for part in document["resourceLogs"]:
        for scope in part["scopeLogs"]:
            for item in scope["logRecords"]:
                for name in ("traceId", "spanId"):
                    if name in item:
                        item[name] = base64.b64encode(bytes.fromhex(item[name])).decode()
    found = Parse(json.dumps(document), ExportLogsServiceRequest())
    found = ExportLogsServiceRequest.FromString(found.SerializeToString())
    print(json.dumps(MessageToDict(found)))
"""


def official() -> pathlib.Path:
    """An interpreter that has OpenTelemetry's own protobuf classes."""
    folder = os.environ.get("LIMEN_RECEIVERS", "")
    python = pathlib.Path(folder, "otlp", "bin", "python")
    if not folder or not python.exists():
        pytest.skip("not installed: opentelemetry-proto in an environment of its own (.ci/receivers)")
    return python


@pytest.mark.peer
def test_the_protocols_own_classes_read_every_sample() -> None:
    lines = list(otlp.lines(samples()))
    done = subprocess.run(
        [official(), "-c", READS], input=b"".join(lines), capture_output=True, check=True, timeout=120
    )
    (found,) = [json.loads(line) for line in done.stdout.splitlines()]
    logs = found["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert [item["body"]["stringValue"].encode() for item in logs] == [data for _, data in samples()]
    (traced,) = [item for item in logs if "traceId" in item]
    assert base64.b64decode(traced["traceId"]).hex() == TRACE
    assert base64.b64decode(traced["spanId"]).hex() == SPAN
    assert {item["timeUnixNano"] for item in logs} == {str(int(START.timestamp()) * 10**9)}
    assert logs[0]["severityNumber"] == "SEVERITY_NUMBER_INFO"


@given(any_record())
@settings(max_examples=50)
def test_a_log_record_of_any_record_holds_it_whole(item: tuple[int, bytes]) -> None:
    line = next(otlp.lines([item]))
    assert line.count(b"\n") == 1
    (found,) = as_json(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert found["body"]["stringValue"].encode() == item[1]
    names = [attribute["key"] for attribute in found["attributes"]]
    assert len(names) == len(set(names))


def attributes(name: str) -> dict[str, str]:
    found = otlp.log_record(*sample(name))["attributes"]
    return {item["key"]: next(iter(item["value"].values())) for item in found}


def test_a_request_uses_the_semantic_conventions() -> None:
    found = attributes("request")
    expected = {
        "client.address": "10.0.0.1", "server.port": "8080", "server.address": "db.corp.test", "url.path": "/orders/1",
        "url.query": "page=2", "http.request.method": "GET", "network.protocol.name": "http", "limen.decision": "allow",
        "log.record.uid": as_json(sample("request")[1])["id"],
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    made = otlp.log_record(*sample("request"))
    assert (made["traceId"], made["spanId"], made["eventName"]) == (TRACE, SPAN, "limen.decision")


def test_numbers_of_64_bits_are_texts() -> None:
    found = otlp.log_record(*sample("request"))
    assert not any(type(leaf) is int and leaf > 2**31 for leaf in leaves(found))
    assert isinstance(found["timeUnixNano"], str)


def test_many_records_are_several_batches_in_the_order_of_the_log() -> None:
    data = sample("request")[1]
    found = [as_json(line) for line in otlp.lines((index, data) for index in range(2 * otlp.BATCH + 1))]
    places = []
    for part in found:
        logs = part["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
        places += [
            int(item["value"]["intValue"]) for log in logs for item in log["attributes"] if item["key"] == "limen.index"
        ]
    assert (len(found), places) == (3, list(range(2 * otlp.BATCH + 1)))


def test_a_record_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Problem) as caught:
        list(otlp.lines([(7, b"{}")]))
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 7)


def test_every_sample_has_a_log_record() -> None:
    assert len([otlp.log_record(*item) for item in samples()]) == len(SAMPLES)
