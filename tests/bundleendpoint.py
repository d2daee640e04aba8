"""Another trust domain's bundle endpoint, in this process: any certificate, any answer, and what was asked."""

import contextlib
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

from tests.pki import Made, Pki

Answer = tuple[int, dict[str, str], bytes]
PATH = "/.well-known/spiffe-bundle"


class Endpoint:
    """A running endpoint. ``answers`` maps paths to answers; ``asked`` lists the requests in order."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port, self.host = port, host
        self.answers: dict[str, Answer | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.has_client_certificate = False

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}{PATH}"

    def serve(self, document: bytes, path: str = PATH) -> None:
        self.answers[path] = (200, {"content-type": "application/json"}, document)

    def redirect(self, location: str, path: str = PATH, status: int = 302) -> None:
        self.answers[path] = (status, {"location": location}, b"")


def context_of(chain: list[Made]) -> ssl.SSLContext:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from limen import tlsport

    key = chain[0].key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return tlsport.context_of(key, b"".join(item.pem for item in chain))


@contextlib.contextmanager
def serving(context: ssl.SSLContext, host: str = "127.0.0.1") -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            endpoint.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            endpoint.has_client_certificate |= self.connection.getpeercert(binary_form=True) is not None
            answer = endpoint.answers.get(self.path, (404, {}, b""))
            if callable(answer):
                answer(self)
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

        def get_request(self) -> tuple[ssl.SSLSocket, object]:
            found, address = super().get_request()
            found.settimeout(60)
            return context.wrap_socket(found, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, *arguments: object) -> None:
            pass  # a client that hangs up is part of many a test

    with Server((host, 0), Handler) as server:
        endpoint = Endpoint(server.server_address[1], host)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def spiffe_endpoint(pki: Pki, path: str = "/endpoint", **details: object) -> Iterator[Endpoint]:
    """An endpoint that shows an X.509-SVID."""
    with serving(context_of([pki.leaf(path, **details)])) as found:
        yield found
