"""The shop's front: renders products itself, asks `cart` for everything else."""

import http.client
import http.server
import json
import os

CART = int(os.environ["CART_PORT"])


def call(method: str, path: str) -> tuple[int, bytes]:
    """Ask cart through the sidecar's loopback port."""
    connection = http.client.HTTPConnection("127.0.0.1", CART, timeout=15)
    connection.request(method, path, headers={"host": "cart.shop"})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


class Web(http.server.BaseHTTPRequestHandler):
    """Pages of the shop."""

    protocol_version = "HTTP/1.1"

    def respond(self, status: int, body: object) -> None:
        """Send one JSON answer."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def do_GET(self) -> None:
        """Serve pages and baskets."""
        if self.path == "/healthz":
            self.respond(200, {"ok": True})
        elif self.path in {"/", "/products"} or self.path.startswith("/products/"):
            self.respond(200, {"page": self.path})
        elif self.path.startswith("/basket/"):
            self.respond(*call("GET", "/carts/" + self.path.rpartition("/")[2]))
        else:
            self.respond(404, {"error": "no such page"})

    def do_POST(self) -> None:
        """Put something into a basket, or check out."""
        self.rfile.read(int(self.headers.get("content-length", "0")))
        parts = self.path.split("/")
        if len(parts) == 4 and parts[1] == "basket" and parts[3] in {"items", "checkout"}:
            self.respond(*call("POST", f"/carts/{parts[2]}/{parts[3]}"))
        else:
            self.respond(404, {"error": "no such page"})

    def do_DELETE(self) -> None:
        """Empty a basket: the rare call."""
        if self.path.startswith("/basket/"):
            self.respond(*call("DELETE", "/carts/" + self.path.rpartition("/")[2]))
        else:
            self.respond(404, {"error": "no such page"})

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Server(http.server.ThreadingHTTPServer):
    """A server that accepts bursts."""

    request_queue_size = 128


Server(("127.0.0.1", int(os.environ["PORT"])), Web).serve_forever()
