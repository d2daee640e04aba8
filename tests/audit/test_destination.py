import pathlib

import pytest

from audit.destination import Options, is_local, parse_destination
from mesh.problems import Problem


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("-", None, ("stdout", "jsonl", "", 0, "")),
        ("out.jsonl", "ocsf", ("file", "ocsf", "", 0, "out.jsonl")),
        ("file:///var/log/a.log", "syslog", ("file", "syslog", "", 0, "/var/log/a.log")),
        ("file:///var/log/a/", "parquet", ("file", "parquet", "", 0, "/var/log/a/")),
        ("https://siem.test/in?x=1", None, ("https", "jsonl", "siem.test", 443, "/in")),
        ("http://127.0.0.1:8088/in", "ecs", ("http", "ecs", "127.0.0.1", 8088, "/in")),
        ("syslog+tls://siem.test", None, ("syslog+tls", "syslog", "siem.test", 6514, "")),
        ("syslog+tls://[2001:db8::1]:6515", "cef", ("syslog+tls", "cef", "2001:db8::1", 6515, "")),
        ("otlp+https://otel.test:4318", None, ("otlp+https", "otlp", "otel.test", 4318, "")),
        ("otlp+http://localhost", None, ("otlp+http", "otlp", "localhost", 4318, "")),
        ("nats://nats.test/limen.audit", None, ("nats", "jsonl", "nats.test", 4222, "/limen.audit")),
        ("s3://bucket/a/b?region=eu-1", "parquet", ("s3", "parquet", "bucket", 443, "/a/b")),
    ],
)
def test_a_destination_is_read(text: str, form: str | None, expected: tuple[object, ...]) -> None:
    found = parse_destination(text, form)
    assert (found.scheme, found.form, found.host, found.port, found.path) == expected


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("ftp://a/b", None),
        ("stdout://a", None),
        ("https://user:secret@siem.test/", None),
        ("https://siem.test/#x", None),
        ("syslog+tls://siem.test?a=b", None),
        ("http://siem.test/", None),
        ("otlp+http://10.0.0.1", None),
        ("http://127.0.0.1.siem.test/", None),
        ("https://[::1", None),
        ("https://siem.test:99999", None),
        ("https:///in", None),
        ("file://other/a", None),
        ("file:a", None),
        ("nats://nats.test", None),
        ("-", "parquet"),
        ("otlp+https://a", "jsonl"),
        ("nats://a/b", "parquet"),
        ("syslog+tls://a", "otlp"),
    ],
)
def test_what_does_not_say_how_records_are_protected_is_refused(text: str, form: str | None) -> None:
    with pytest.raises(Problem) as caught:
        parse_destination(text, form)
    assert caught.value.code == "LM6100"
    assert "secret@" not in caught.value.message


def test_a_clients_certificate_has_its_key() -> None:
    with pytest.raises(Problem) as caught:
        parse_destination("https://siem.test", None, Options(cert=pathlib.Path("c.pem")))
    assert caught.value.code == "LM6100"


def test_directories_end_with_a_slash() -> None:
    assert [parse_destination(text).is_directory for text in ("file:///a/", "file:///a", "s3://a", "https://a/")] == [
        True, False, True, False,
    ]  # fmt: skip


def test_this_machine_is_a_name_or_a_loopback_address() -> None:
    names = ("localhost", "127.0.0.1", "::1", "127.9.9.9", "localhost.test", "10.0.0.1", "")
    assert [is_local(name) for name in names] == [True, True, True, True, False, False, False]
    assert parse_destination("http://[::1]/a").is_local
