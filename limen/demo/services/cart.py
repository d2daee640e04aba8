"""Baskets: keeps them in memory and turns them into orders."""

import http.client
import http.server
import json
import os

ORDERS = int(os.environ["ORDERS_PORT"])


class Cart(http.server.BaseHTTPRequestHandler):
    """One basket per id."""

    protocol_version = "HTTP/1.1"

    def respond(self, status: int, body: object) -> None:
        """Send one JSON answer."""
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def basket(self) -> list[str]:
        """The path's segments below /carts, empty when it is another path."""
        parts = self.path.split("/")
        return parts[2:] if parts[:2] == ["", "carts"] and len(parts) > 2 else []

    def do_GET(self) -> None:
        """Show a basket."""
        self.respond(*((200, {"basket": self.basket()[0]}) if len(self.basket()) == 1 else (404, {})))

    def do_DELETE(self) -> None:
        """Empty a basket."""
        self.respond(*((200, {"emptied": self.basket()[0]}) if len(self.basket()) == 1 else (404, {})))

    def do_POST(self) -> None:
        """Add an item, or make an order of the basket and show it."""
        self.rfile.read(int(self.headers.get("content-length", "0")))
        match self.basket():
            case [basket, "items"]:
                self.respond(201, {"basket": basket})
            case [basket, "checkout"]:
                connection = http.client.HTTPConnection("127.0.0.1", ORDERS, timeout=15)
                connection.request("POST", "/orders", json.dumps({"basket": basket}), {"host": "orders.shop"})
                answer = connection.getresponse()
                made = json.loads(answer.read() or b"{}")
                connection.close()
                self.respond(201 if answer.status == 201 else 502, made)
            case _:
                self.respond(404, {})

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Server(http.server.ThreadingHTTPServer):
    """A server that accepts bursts."""

    request_queue_size = 128


Server(("127.0.0.1", int(os.environ["PORT"])), Cart).serve_forever()
