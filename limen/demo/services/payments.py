"""Payments: the crown jewels."""

import http.server
import os
import re

PAYMENT = re.compile(r"/payments/[0-9a-f-]{36}\Z")
RECEIPT = re.compile(r"/payments/[0-9a-f-]{36}/receipt\Z")


class Payments(http.server.BaseHTTPRequestHandler):
    """One payment per key."""

    protocol_version = "HTTP/1.1"

    def respond(self, status: int) -> None:
        """Send one small answer."""
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_GET(self) -> None:
        """Show a receipt."""
        self.respond(200 if RECEIPT.match(self.path) else 404)

    def do_PUT(self) -> None:
        """Make a payment."""
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.respond(200 if PAYMENT.match(self.path) else 404)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Server(http.server.ThreadingHTTPServer):
    """A server that accepts bursts."""

    request_queue_size = 128


Server(("127.0.0.1", int(os.environ["PORT"])), Payments).serve_forever()
