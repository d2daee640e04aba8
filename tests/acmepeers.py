"""What real ACME clients need around them: names that resolve, places for http-01 and tls-alpn-01, a web server."""

import contextlib
import http.server
import pathlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator

A, TXT = 1, 16


class Names:
    """A resolver: every name is 127.0.0.1; TXT records are the lines of files that hooks write, one for each name."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(4096)
            if not data:
                return
            self._socket.sendto(self.answer(data), peer)

    def answer(self, asked: bytes) -> bytes:
        labels, at = [], 12
        while asked[at]:
            labels.append(asked[at + 1 : at + 1 + asked[at]].decode("ascii").lower())
            at += 1 + asked[at]
        question, (kind,) = asked[12 : at + 5], struct.unpack_from(">H", asked, at + 1)
        rows = [socket.inet_aton("127.0.0.1")] if kind == A else []
        file = self.folder / ".".join(labels)
        if kind == TXT and file.exists():
            rows = [bytes([len(line)]) + line.encode() for line in file.read_text().split()]
        body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 1, len(row)) + row for row in rows)
        return asked[:2] + struct.pack(">5H", 0x8580, 1, len(rows), 0, 0) + question + body

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


@contextlib.contextmanager
def web(folder: pathlib.Path, port: int) -> Iterator[None]:
    """Serve a folder at ``/.well-known/acme-challenge/``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = folder / pathlib.PurePosixPath(self.path).name
            found = file.read_bytes() if file.exists() else b""
            self.send_response(200 if found else 404)
            self.send_header("content-length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, *found: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def tls(pair: "TlsPair", port: int) -> Iterator[None]:
    """Accept TLS connections, and show each the certificate that ``pair`` has for the name it asks for."""
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            with raw, contextlib.suppress(OSError, ssl.SSLError):
                raw.settimeout(60)
                with pair.context().wrap_socket(raw, server_side=True) as secured:
                    while secured.recv(1024):
                        pass
                    secured.unwrap()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


class TlsPair:
    """A certificate chain and its key, as files; of two folders of challenges, the one for the name that is asked."""

    def __init__(self, chain: pathlib.Path, key: pathlib.Path, alpn: list[str] | None = None) -> None:
        self._chain, self._key, self._alpn = chain, key, alpn

    def context(self) -> ssl.SSLContext:
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self._alpn is not None:
            found.set_alpn_protocols(self._alpn)
        if not self._chain.is_dir():
            found.load_cert_chain(self._chain, self._key)
            return found

        def choose(secured: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            inner = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            inner.set_alpn_protocols(self._alpn or [])
            inner.load_cert_chain(self._chain / f"{name}.crt.pem", self._key / f"{name}.key.pem")
            secured.context = inner

        found.sni_callback = choose  # type: ignore[assignment]
        return found
