"""Two real Envoys that have everything from `agent.sock` over SDS: no request fails while what they hold changes.

SVIDs are renewed, issuing authorities and roots rotate, and the server is killed.
"""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from limen.client import Client
from tests.ports import free_port

ENVOY = pathlib.Path(sysconfig.get_path("purelib")) / "envoy" / "_bin" / "envoy"
pytestmark = [
    pytest.mark.peer,
    pytest.mark.system,
    pytest.mark.skipif(not ENVOY.exists(), reason="Envoy is not installed (the extra `envoy`)"),
]
NAME = "spiffe://test.limen/ns/edge/sa/envoy"
RULES = """\
rules:
- id: edge
  match: {"unix:basename": "envoy"}
  spiffe_id: "/ns/edge/sa/envoy"
  ttl: 1h
"""
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def sds(name: str) -> dict[str, Any]:
    service = {"envoy_grpc": {"cluster_name": "agent"}}
    source = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    return {"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": source}}


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, where: dict[str, Any], *, http2: bool, **more: Any) -> dict[str, Any]:
    protocol = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    options: dict[str, Any] = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": protocol,
    }
    if not http2:
        # a handshake for every request
        options["common_http_protocol_options"] = {"max_requests_per_connection": 1}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": where}}]}],
        },
        **more,
    }


def listener(port: int, action: dict[str, Any], **more: Any) -> dict[str, Any]:
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}]
    config = {
        "@type": HCM,
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": config}], **more}
    return {"name": "in", "address": address(port), "filter_chains": [chain]}


def secured(kind: str, context: str, **more: Any) -> dict[str, Any]:
    matcher = {"san_type": "URI", "matcher": {"exact": NAME}}
    common = {
        "tls_certificate_sds_secret_configs": [sds("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [matcher]},
            "validation_context_sds_secret_config": sds(context),
        },
    }
    return {"name": "tls", "typed_config": {"@type": f"{TLS}.{kind}", "common_tls_context": common, **more}}


class Envoy:
    """A running Envoy with its configuration and its admin port."""

    def __init__(self, folder: pathlib.Path, agent: pathlib.Path, name: str, listen: Any, clusters: list[Any]) -> None:
        self.admin = free_port()
        pipe = cluster("agent", {"pipe": {"path": str(agent)}}, http2=True)
        config = {
            "node": {"id": name, "cluster": name},
            "admin": {"address": address(self.admin)},
            "static_resources": {"listeners": [listen], "clusters": [pipe, *clusters]},
        }
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config), "utf-8")
        self.log = folder / f"{name}.log"
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                [ENVOY, "-c", path, "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"],
                stdout=errors,
                stderr=errors,
            )

    def get(self, path: str) -> str:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)) as connection:
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def serials(self) -> set[str]:
        try:
            found = json.loads(self.get("/certs"))["certificates"]
        except OSError:
            return set()
        return {item["serial_number"] for row in found for item in row.get("cert_chain", [])}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=100)


@contextlib.contextmanager
def pair(folder: pathlib.Path, agent: pathlib.Path, context: str) -> Iterator[tuple[int, Envoy, Envoy]]:
    inner, outer = free_port(), free_port()
    answer = {"direct_response": {"status": 200, "body": {"inline_string": "yes"}}}
    down = secured("DownstreamTlsContext", context, require_client_certificate=True)
    up = secured("UpstreamTlsContext", context, max_session_keys=0)
    server = Envoy(folder, agent, "server", listener(inner, answer, transport_socket=down), [])
    peer = cluster("peer", address(inner), http2=False, transport_socket=up)
    client = Envoy(folder, agent, "client", listener(outer, {"route": {"cluster": "peer"}}), [peer])
    try:
        yield outer, server, client
    finally:
        server.stop()
        client.stop()


def are_new(server: Envoy, client: Envoy, before: tuple[set[str], set[str]]) -> bool:
    """Whether both show certificates that they did not show before."""
    return all(now - old for now, old in zip((server.serials(), client.serials()), before, strict=True))


def status(port: int) -> int:
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            return answer.status
    except OSError:
        return 0


@pytest.mark.parametrize("context", ["ROOTCA", "ALL", "test.limen"])
def test_no_request_fails_while_svids_and_authorities_rotate_and_the_server_restarts(
    context: str, make_installation: Callable[..., Any], tmp_path: pathlib.Path, until: Callable[..., object]
) -> None:
    installation = make_installation()
    installation.rules(RULES)
    with pair(tmp_path, installation.state / "agent.sock", context) as (port, server, client):
        until(lambda: status(port) == 200, 200)
        seen = [(server.serials(), client.serials())]
        sent, failed, killed = 0, [], installation.pid("server")
        asked = Client(installation.state / "server.sock")
        for step in ("rotate", "issuing", "root", "kill", "rotate"):
            if step == "kill":
                os.kill(installation.pid("server"), signal.SIGKILL)
            else:
                if step != "rotate":
                    # it signs as soon as the agent has said that it knows it
                    made = asked.call("POST", "/v1/authorities/rotate", {"kind": step, "force": False})["authority"]
                    while asked.call("GET", f"/v1/authorities/{made}")["state"] != "active":
                        sent += 1
                        if status(port) != 200:
                            failed.append((step, 0))
                asked.call("POST", "/v1/rotate", {})
            end = time.monotonic() + 3
            # three seconds, and as long as it takes until both show others where they are given others
            while time.monotonic() < end or (step != "kill" and not are_new(server, client, seen[-1])):
                assert time.monotonic() < end + 200
                answer = status(port)
                sent += 1
                if answer != 200:
                    failed.append((step, answer))
                time.sleep(0.005)
            if step == "kill":
                until(lambda: installation.pid("server") != killed, 200)
            seen.append((server.serials(), client.serials()))
        assert failed == [], (server.log.read_text(), client.log.read_text())
        assert sent > 20
        for side in (0, 1):
            assert len({min(found[side]) for found in seen}) >= 3, "the SVIDs changed"
        stats = client.get("/stats?filter=ssl.handshake")
        assert int(stats.rsplit(":", 1)[1]) > 20
