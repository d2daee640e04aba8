"""An HTTP server that answers what a test says, at a Unix socket or over TLS: for answers that no engine gives."""

import contextlib
import http.server
import os
import socketserver
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

# by path: status and body; None to say nothing at all
Replies = Callable[[str], tuple[int, bytes] | None]


class Stage(http.server.BaseHTTPRequestHandler):
    """Answers by path."""

    protocol_version = "HTTP/1.1"
    replies: Replies

    def do_GET(self) -> None:
        found = type(self).replies(self.path)
        if found is None:
            # hold the line until the other side hangs up
            self.connection.recv(1)
            self.close_connection = True
            return
        self.send_response(found[0])
        self.send_header("content-length", str(len(found[1])))
        self.end_headers()
        self.wfile.write(found[1])

    def log_message(self, *args: Any) -> None: ...

    def address_string(self) -> str:
        return "here"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One at a Unix socket."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None: ...


@contextlib.contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def staged(replies: Replies) -> Iterator[str]:
    """A socket that only we could have made, with something behind it."""
    with tempfile.TemporaryDirectory(dir="/run" if os.geteuid() == 0 else None) as folder:
        path = f"{folder}/s"
        handler = type("Handler", (Stage,), {"replies": staticmethod(replies)})
        with Server(path, handler) as server:
            os.chmod(path, 0o600)
            with running(server):
                yield path


class TlsServer(http.server.ThreadingHTTPServer):
    """One over TLS."""

    def handle_error(self, request: Any, client_address: Any) -> None: ...


@contextlib.contextmanager
def staged_tls(replies: Replies, context: ssl.SSLContext, seen: list[str]) -> Iterator[str]:
    """The same over TLS; what was sent to authorise is kept in ``seen``."""

    class Handler(Stage):
        def do_GET(self) -> None:
            seen.append(self.headers.get("authorization", ""))
            super().do_GET()

    Handler.replies = staticmethod(replies)
    with TlsServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with running(server):
            yield f"https://127.0.0.1:{server.server_address[1]}"
