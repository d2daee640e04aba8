"""A stolen SVID against a real sidecar: it opens the door until it is revoked; then neither new nor live ones stay."""

import pathlib
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.enforcer.test_agent import APP
from tests.ports import free_port
from tests.system.test_nested import TREE
from tests.system.test_rotation_soak import named, run

pytestmark = [pytest.mark.system, pytest.mark.slow]
REQUEST = b"GET /ok HTTP/1.1\r\nhost: db\r\n\r\n"
BODY = b"\r\n\r\nhi"


def thief(folder: pathlib.Path, port: int) -> ssl.SSLSocket:
    """A connection with the stolen files; it does not care who answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(folder / "svid.pem", folder / "key.pem")
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=60))


def ask(sock: ssl.SSLSocket) -> bytes:
    """The answer's first line, the whole answer read: head and body may come apart. Empty when it is closed."""
    answer = b""
    try:
        sock.sendall(REQUEST)
        while not answer.endswith(BODY) and (part := sock.recv(65536)):
            answer += part
    except (ConnectionError, ssl.SSLError):
        return b""
    return answer.partition(b"\r\n")[0]


def test_a_revoked_svid_is_refused_at_once_on_new_connections_and_on_live_ones(
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    installation = make_installation()
    inbound, app = free_port(), free_port()
    tmp_path.chmod(0o755)
    (tmp_path / "db").write_text(APP)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "db.yaml").write_text(TREE.format(port=inbound))
    match = f'{{"launch:script": "{tmp_path}/*"}}'
    installation.rules(f'rules:\n- id: s\n  match: {match}\n  spiffe_id: "/{{launch:script_basename}}"\n')
    assert installation.limen("policy", "publish", "--policies", str(tmp_path / "tree")).returncode == 0
    db = run(installation, "--inbound", f"{inbound}={app}", "--", sys.executable, str(tmp_path / "db"), str(app))
    try:
        until(lambda: "db" in named(installation), 200)
        loot = tmp_path / "loot"
        found = installation.json("identity", "issue", "spiffe://test.limen/cart", "--out", str(loot))

        def opens() -> bool:
            with thief(loot, inbound) as sock:
                return ask(sock) == b"HTTP/1.1 200 OK"

        until(opens, 200)
        with thief(loot, inbound) as live:
            assert ask(live) == b"HTTP/1.1 200 OK"
            live.settimeout(100)
            assert installation.limen("identity", "revoke", found["serial"], "--reason", "stolen").returncode == 0
            try:
                rest = live.recv(1)
            except (ConnectionError, ssl.SSLError):
                rest = b""
        # the live connection is closed, and not because nothing came: for that a sidecar waits two minutes
        assert rest == b""
        with thief(loot, inbound) as sock:
            assert ask(sock) == b""
        # who was not robbed goes on: another SVID of the same identity
        fresh = tmp_path / "fresh"
        installation.json("identity", "issue", "spiffe://test.limen/cart", "--out", str(fresh))
        with thief(fresh, inbound) as sock:
            assert ask(sock) == b"HTTP/1.1 200 OK"
    finally:
        db.terminate()
        db.communicate(timeout=100)
