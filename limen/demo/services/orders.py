"""Orders: numbers them, and pays for each one."""

import http.client
import http.server
import itertools
import json
import os
import uuid

PAYMENTS = int(os.environ["PAYMENTS_PORT"])
NUMBERS = itertools.count(1000)


def pay() -> int:
    """Ask payments for one payment and look at its receipt; return the worse status."""
    key = uuid.uuid4()
    worst = 0
    for method, path in (("PUT", f"/payments/{key}"), ("GET", f"/payments/{key}/receipt")):
        connection = http.client.HTTPConnection("127.0.0.1", PAYMENTS, timeout=15)
        connection.request(method, path, headers={"host": "payments.shop"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        worst = max(worst, answer.status)
    return worst


class Orders(http.server.BaseHTTPRequestHandler):
    """Orders by number. /admin exists and nobody has a business there."""

    protocol_version = "HTTP/1.1"

    def respond(self, status: int, body: object) -> None:
        """Send one JSON answer."""
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def do_GET(self) -> None:
        """Show an order."""
        name = self.path.removeprefix("/orders/")
        if self.path == "/admin":
            self.respond(200, {"secret": "all orders of everybody"})
        elif name.isdigit():
            self.respond(200, {"order": int(name)})
        else:
            self.respond(404, {})

    def do_POST(self) -> None:
        """Make an order."""
        self.rfile.read(int(self.headers.get("content-length", "0")))
        if self.path != "/orders":
            self.respond(404, {})
        elif (status := pay()) >= 400:
            self.respond(502, {"payments": status})
        else:
            self.respond(201, {"order": next(NUMBERS)})

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Server(http.server.ThreadingHTTPServer):
    """A server that accepts bursts."""

    request_queue_size = 128


Server(("127.0.0.1", int(os.environ["PORT"])), Orders).serve_forever()
