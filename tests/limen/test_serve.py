import asyncio
import contextlib
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
import urllib.parse
import urllib.request

import pytest
import trustme
from fastapi import FastAPI

from limen import serve, tlsport
from limen.client import Client
from limen.serve import _for_strangers, _listen
from mesh.problems import Invalid


def test_a_taken_address_is_refused_with_a_code() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Invalid, match="LM5212"):
        _listen("127.0.0.1", taken.getsockname()[1])


def test_a_connection_is_known_to_be_tcp_so_that_asyncio_does_not_delay_answers() -> None:
    with _listen("127.0.0.1", 0) as found:
        assert found.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x00\xff"], ids=["nothing", "a-beginning"])
def test_a_stranger_who_does_not_end_the_handshake_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    assert serve._HANDSHAKE_S == 10
    monkeypatch.setattr(serve, "_HANDSHAKE_S", 0.05)
    issued = trustme.CA().issue_cert("limen.test")
    context = tlsport.context_of(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())

    async def run() -> None:
        server, listener = _for_strangers(FastAPI(), context), _listen("127.0.0.1", 0)
        task = asyncio.ensure_future(server.serve(sockets=[listener]))
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()
            while listener.connections:
                await asyncio.sleep(0)
            server.should_exit = True
            await task

    asyncio.run(run())


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
        connection = http.client.HTTPSConnection(address, context=context, timeout=60)
        connection.request("GET", path)
        assert connection.getresponse().status in {404, 405}
        connection.close()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert not (tmp_path / "server.sock").exists()
    assert not (tmp_path / "run" / "server.json").exists()
    assert "PRIVATE" not in err


@pytest.mark.system
def test_one_address_begins_so_many_handshakes_at_each_public_port_and_others_go_on(tmp_path: pathlib.Path) -> None:
    options = ["--connect-rate", "0.000001", "--connect-burst", "4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "limen", "--state", str(tmp_path), "server", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready server\n"
    found = json.loads((tmp_path / "run" / "server.json").read_text("utf-8"))["addresses"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def shakes_hands(port: int, source: str) -> bool:
        with socket.create_connection(("127.0.0.1", port), 60, (source, 0)) as stranger:
            try:
                with context.wrap_socket(stranger):
                    return True
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
                return False

    ports = {name: urllib.parse.urlsplit(found[name]).port or 0 for name in ("tls", "federation")}
    for port in ports.values():
        assert [shakes_hands(port, "127.0.0.1") for _ in range(6)] == [True] * 4 + [False] * 2
        assert shakes_hands(port, "127.0.0.2")
    # agents' port, which does not know them yet
    node = int(found["node"].rpartition(":")[2])
    for _ in range(6):
        with socket.create_connection(("127.0.0.1", node), 60) as stranger, contextlib.suppress(ConnectionError):
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            stranger.recv(1)
    with urllib.request.urlopen(found["metrics"], timeout=60) as answer:
        told = answer.read().decode()
    for name in ("tls", "federation", "node"):
        assert f'limen_server_refused_connections_total{{port="{name}",reason="often"}} 2.0' in told
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == 0


@pytest.mark.system
def test_a_second_server_on_the_same_state_is_refused(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "limen", "--state", str(tmp_path), "server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready server\n"
        second = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert second.returncode == 2
        assert "LM5205" in second.stderr
        os.kill(first.pid, signal.SIGTERM)
