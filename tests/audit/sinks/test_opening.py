import pytest

from audit.destination import parse_destination
from audit.sinks.appending import FileSink, StdoutSink
from audit.sinks.nats import NatsSink
from audit.sinks.opening import open_sink
from audit.sinks.otlp import OtlpSink
from audit.sinks.partitions import PartitionSink
from audit.sinks.syslog import SyslogSink
from audit.sinks.webhook import WebhookSink
from mesh.clock import SystemClock
from mesh.problems import Problem


@pytest.mark.parametrize(
    ("to", "form", "kind"),
    [
        ("-", None, StdoutSink),
        ("file:///tmp/a", None, FileSink),
        ("file:///tmp/a/", "parquet", PartitionSink),
        ("s3://a/b?region=us-east-1", "parquet", PartitionSink),
        ("https://a.test", None, WebhookSink),
        ("http://localhost", None, WebhookSink),
        ("otlp+https://a.test", None, OtlpSink),
        ("syslog+tls://a.test", None, SyslogSink),
        ("nats://a.test/b", None, NatsSink),
    ],
)
def test_every_scheme_has_its_sink(to: str, form: str | None, kind: type) -> None:
    found = open_sink(parse_destination(to, form), origin="o", now=SystemClock().now)
    assert isinstance(found, kind)
    assert (found.most > 0, found.linger_s >= 0) == (True, True)
    found.close()


def test_parquet_grows_in_no_single_file() -> None:
    with pytest.raises(Problem) as caught:
        open_sink(parse_destination("file:///tmp/a", "parquet"), origin="o", now=SystemClock().now)
    assert caught.value.code == "LM6100"
