"""Real receivers of records: rsyslog, a NATS server, an OpenTelemetry collector, an S3 server.

Each ends with its test.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import trustme

from tests.ports import free_port

PATIENT_S = 60.0


def receiver(name: str) -> str:
    """The path of a receiver's program; the test is skipped where it is not built."""
    folder = os.environ.get("LIMEN_RECEIVERS", "")
    found = pathlib.Path(folder, name)
    if not folder or not found.exists():
        pytest.skip(f"not installed: {name} (.ci/receivers)")
    return str(found)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, patiently."""
    deadline = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def running(
    words: Sequence[str], folder: pathlib.Path, port: int, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens at a port; its output is in `out` in the folder."""
    with (folder / "out").open("ab") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, cwd=folder, env={**os.environ, **environment})
    try:
        until(lambda: process.poll() is not None or answers(port), f"{words[0]} at port {port}")
        assert process.poll() is None, (folder / "out").read_text()[-3000:]
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Certificates:
    """A CA, and a certificate of `localhost` and 127.0.0.1 in files."""

    def __init__(self, folder: pathlib.Path) -> None:
        authority = trustme.CA()
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        issued = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(self.ca)
        issued.cert_chain_pems[0].write_to_path(self.cert)
        issued.private_key_pem.write_to_path(self.key)


@contextlib.contextmanager
def rsyslog(folder: pathlib.Path, made: Certificates, port: int) -> Iterator[pathlib.Path]:
    """rsyslog that takes syslog over TLS and writes each message, with what it made of it, to a file."""
    program = shutil.which("rsyslogd") or "/usr/sbin/rsyslogd"
    if not pathlib.Path(program).exists():
        pytest.skip("not installed: rsyslogd")
    out = folder / "received"
    (folder / "work").mkdir(exist_ok=True)
    (folder / "rsyslog.conf").write_text(f"""
global(workDirectory="{folder}/work" maxMessageSize="128k"
       parser.escapeControlCharactersOnReceive="off"
       defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="{made.ca}"
       defaultNetstreamDriverCertFile="{made.cert}" defaultNetstreamDriverKeyFile="{made.key}")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
template(name="all" type="list") {{
  property(name="syslogfacility-text") constant(value="\\t") property(name="syslogseverity-text") constant(value="\\t")
  property(name="hostname") constant(value="\\t") property(name="app-name") constant(value="\\t")
  property(name="msgid") constant(value="\\t") property(name="structured-data") constant(value="\\t")
  property(name="msg") constant(value="\\n")
}}
input(type="imtcp" port="{port}" address="127.0.0.1")
action(type="omfile" file="{out}" template="all")
""")
    words = [program, "-n", "-iNONE", "-f", str(folder / "rsyslog.conf")]
    with running(words, folder, port):
        yield out


@contextlib.contextmanager
def nats(folder: pathlib.Path, port: int) -> Iterator[None]:
    """A NATS server with JetStream."""
    words = [receiver("nats-server"), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "streams")]
    with running(words, folder, port):
        yield


@contextlib.contextmanager
def collector(folder: pathlib.Path, port: int, made: Certificates | None = None) -> Iterator[pathlib.Path]:
    """An OpenTelemetry collector; the file has in full what it received."""
    tls = f"\n        tls: {{cert_file: {made.cert}, key_file: {made.key}}}" if made is not None else ""
    (folder / "collector.yaml").write_text(f"""
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:{port}{tls}
exporters:
  debug: {{verbosity: detailed, use_internal_logger: false, output_paths: ["{folder}/received"]}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp], exporters: [debug]}}
    traces: {{receivers: [otlp], exporters: [debug]}}
""")
    with running([receiver("otelcol"), "--config", f"file:{folder}/collector.yaml"], folder, port):
        yield folder / "received"


@contextlib.contextmanager
def bucket(folder: pathlib.Path, port: int, name: str) -> Iterator[pathlib.Path]:
    """An S3 server with one bucket, whose objects are files below the path that is given."""
    root = folder / "objects"
    (root / name).mkdir(parents=True, exist_ok=True)
    (folder / "meta").mkdir(exist_ok=True)
    words = [
        receiver("versitygw"),
        "--port",
        f"127.0.0.1:{port}",
        "posix",
        "--sidecar",
        str(folder / "meta"),
        str(root),
    ]
    with running(words, folder, port, ROOT_ACCESS_KEY_ID="limen", ROOT_SECRET_ACCESS_KEY="limen-secret-key"):
        yield root / name


__all__ = ["Certificates", "bucket", "collector", "free_port", "nats", "rsyslog", "until"]
