"""An HTTP or HTTPS server that keeps what it got and answers as it is told."""

import http.server
import ssl
import threading
from types import TracebackType
from typing import Self

from tests.audit.receivers import Certificates


class Answering:
    """A server in a thread of its own; ``got`` has path, headers in lower case, and body."""

    def __init__(self, body: bytes = b"", status: int = 200, made: Certificates | None = None) -> None:
        self.body, self.status = body, status
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, data))
                self.send_response(outer.status)
                self.send_header("content-length", str(len(outer.body)))
                if outer.status == 302:
                    self.send_header("location", "/elsewhere")
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's word
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if made is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(made.cert, made.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
