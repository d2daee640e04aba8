"""The exported file, as it is, in a real Envoy beside an application: SVID and trust come from `agent.sock`."""

import contextlib
import http.client
import http.server
import json
import pathlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ports import free_port
from tests.system.test_envoy import ENVOY, NAME, RULES, Envoy, cluster, listener, secured

pytestmark = [
    pytest.mark.peer,
    pytest.mark.system,
    pytest.mark.skipif(not ENVOY.exists(), reason="Envoy is not installed (the extra `envoy`)"),
]
HERE, APP = "127.0.0.2", "127.0.0.1"
TREE = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {{name: edge, owner: team}}
spec:
  identities: ["{name}"]
  ports: [{{port: {port}, protocol: http}}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: edge, owner: team}}
spec:
  service: edge
  tier: app
  rules:
  - {{id: ok, effect: allow, from: ["{name}"], to: [{{methods: [GET], paths: ["/ok/{{x:int}}"]}}]}}
"""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the target that it was sent and the identity that it was told."""

    def do_GET(self) -> None:
        body = f"{self.path} {self.headers.get('x-forwarded-client-cert')}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def application(port: int) -> Iterator[None]:
    with http.server.ThreadingHTTPServer((APP, port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with contextlib.closing(http.client.HTTPConnection(APP, port, timeout=60)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
    except OSError:
        return 0, ""


def test_an_exported_envoy_has_its_svid_from_the_agent_and_decides(
    make_installation: Callable[..., Any], tmp_path: pathlib.Path, until: Callable[..., object]
) -> None:
    installation = make_installation()
    installation.rules(RULES)
    port, outer = free_port(), free_port()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "edge.yaml").write_text(TREE.format(name=NAME, port=port))
    (tmp_path / "workloads").write_text(json.dumps({"spiffe_id": NAME, "ip": HERE}) + "\n")
    options = ("--policies", str(tmp_path / "tree"), "--workloads", str(tmp_path / "workloads"))
    done = installation.limen("policy", "export", "envoy", *options, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    up = secured("UpstreamTlsContext", "ALL")
    # Envoy as a client speaks TLS 1.3 only when it is told to
    up["typed_config"]["common_tls_context"]["tls_params"] = {"tls_maximum_protocol_version": "TLSv1_3"}
    there = {"socket_address": {"address": HERE, "port_value": port}}
    peer = cluster("peer", there, http2=False, transport_socket=up)
    command = [ENVOY, "-c", tmp_path / "out" / "limen-edge.yaml", "--use-dynamic-base-id", "-l", "error"]
    with application(port), subprocess.Popen(command) as exported:
        agent = installation.state / "agent.sock"
        client = Envoy(tmp_path, agent, "client", listener(outer, {"route": {"cluster": "peer"}}), [peer])
        try:
            until(lambda: get(outer, "/ok/1")[0] == 200, 200)
            found = {
                path: get(outer, path) for path in ("/ok/7?a=/x", "//ok/7", "/ok/x", "/ok/../ok/7", "/", "/ok/7;a")
            }
        finally:
            client.stop()
            exported.terminate()
    assert {path: status for path, (status, _) in found.items()} == {
        "/ok/7?a=/x": 200, "//ok/7": 200, "/ok/x": 403, "/ok/../ok/7": 403, "/": 403, "/ok/7;a": 403
    }  # fmt: skip
    assert found["/ok/7?a=/x"][1].startswith("/ok/7?a=/x ")
    assert found["//ok/7"][1].startswith("/ok/7 ")
    assert f"URI={NAME}" in found["//ok/7"][1]
