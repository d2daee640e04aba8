import http.client
import json
import os
import pathlib
import signal
import socket
import ssl
import stat
import subprocess
import sys

import pytest

from limen.client import Client
from limen.serve import _listen
from mesh.problems import Invalid


def test_a_taken_address_is_refused_with_a_code() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Invalid, match="LM5212"):
        _listen("127.0.0.1", taken.getsockname()[1])


def test_a_connection_is_known_to_be_tcp_so_that_asyncio_does_not_delay_answers() -> None:
    with _listen("127.0.0.1", 0) as found:
        assert found.proto == socket.IPPROTO_TCP


@pytest.mark.system
def test_the_server_shows_strangers_nothing_but_joining_and_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "limen", "--state", str(tmp_path), "server", "--trust-domain", "serve.test"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready server\n"
    run = json.loads((tmp_path / "run" / "server.json").read_text("utf-8"))
    assert run["pid"] == process.pid
    assert stat.S_IMODE((tmp_path / "server.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o711
    assert Client(tmp_path / "server.sock").call("GET", "/v1/status")["trust_domain"] == "serve.test"

    address = run["addresses"]["tls"].removeprefix("https://")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for path in ("/v1/status", "/v1/tokens", "/openapi.json", "/docs", "/"):
        connection = http.client.HTTPSConnection(address, context=context, timeout=10)
        connection.request("GET", path)
        assert connection.getresponse().status in {404, 405}
        connection.close()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert not (tmp_path / "server.sock").exists()
    assert not (tmp_path / "run" / "server.json").exists()
    assert "PRIVATE" not in err


@pytest.mark.system
def test_a_second_server_on_the_same_state_is_refused(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "limen", "--state", str(tmp_path), "server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready server\n"
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 2
        assert "LM5205" in second.stderr
        os.kill(first.pid, signal.SIGTERM)
