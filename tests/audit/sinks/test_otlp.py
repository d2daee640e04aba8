import pathlib

import pytest

from audit.destination import Options, parse_destination
from audit.sinks.otlp import OtlpSink
from mesh.problems import Problem
from tests.audit.formats.samples import SAMPLES, SPAN, TRACE, samples
from tests.audit.receivers import Certificates, collector, free_port, until


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("scheme", ["otlp+http", "otlp+https"])
def test_a_collector_receives_every_record_with_its_trace(scheme: str, tmp_path: pathlib.Path) -> None:
    port, made = free_port(), Certificates(tmp_path)
    options = Options(ca=made.ca) if scheme == "otlp+https" else Options()
    sink = OtlpSink(parse_destination(f"{scheme}://localhost:{port}", None, options))
    with pytest.raises(Problem) as caught:
        sink.send(samples())
    assert caught.value.code == "LM6101"
    with collector(tmp_path, port, made if scheme == "otlp+https" else None) as received:
        sink.send(samples())
        until(
            lambda: received.exists() and received.read_text("utf-8").count("LogRecord #") == len(SAMPLES),
            "all records",
        )
    sink.close()
    said = received.read_text("utf-8")
    assert f"Trace ID: {TRACE}" in said
    assert f"Span ID: {SPAN}" in said
    assert said.count("SeverityText: WARN") > 3
    assert "service.name: Str(limen)" in said
    for _, data in samples():
        assert data.decode().partition('"time"')[0].splitlines()[0][:40] in said


def test_a_collector_that_rejects_records_has_not_taken_the_batch(tmp_path: pathlib.Path) -> None:
    from tests.audit.sinks.answering import Answering

    with Answering(b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}') as server:
        sink = OtlpSink(parse_destination(f"otlp+http://127.0.0.1:{server.port}"))
        with pytest.raises(Problem) as caught:
            sink.send(samples())
        assert "2 records" in caught.value.message
        server.body = b'{"partialSuccess":{}}'
        sink.send(samples())
        sink.close()
    assert [path for path, _, _ in server.got] == ["/v1/logs", "/v1/logs"]
    assert server.got[0][1]["content-type"] == "application/json"
