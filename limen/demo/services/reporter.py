"""A job with a valid identity that somebody took over: probes random paths, then does what stdin says."""

import contextlib
import http.client
import json
import os
import secrets
import socket
import sys

PORTS = {"orders": int(os.environ["ORDERS_PORT"]), "payments": int(os.environ["PAYMENTS_PORT"])}


def probe() -> None:
    """Guess forty paths of each service."""
    for service, port in PORTS.items():
        for word in ("admin.bak", "backup", "env", "wp-login", *(secrets.token_hex(4) for _ in range(36))):
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request("GET", f"/{word}", headers={"host": f"{service}.shop"})
                connection.getresponse().read()
                connection.close()


probe()
sys.stdout.write(json.dumps({"probed": True}) + "\n")
sys.stdout.flush()
for request in sys.stdin:
    asked = json.loads(request)
    answer = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", PORTS[asked["service"]]), timeout=10) as connection,
    ):
        connection.sendall(asked["bytes"].encode("latin-1"))
        while len(answer) < 65536 and (piece := connection.recv(65536)):
            answer += piece
    sys.stdout.write(json.dumps({"id": asked["id"], "answer": answer.decode("latin-1")}) + "\n")
    sys.stdout.flush()
