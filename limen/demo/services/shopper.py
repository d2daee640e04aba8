"""Customers: varied, legitimate requests until stdin closes; also sends what a line on stdin asks for.

Every answer to a request line, and a count once a second, goes to stdout as a JSON line.
"""

import http.client
import itertools
import json
import os
import socket
import sys
import threading
import uuid

PORTS = {"web": int(os.environ["WEB_PORT"]), "orders": int(os.environ["ORDERS_PORT"])}
LOCK = threading.Lock()
COUNT = {"sent": 0, "allowed": 0}
STOP = threading.Event()


def tell(row: dict[str, object]) -> None:
    """Write one JSON line."""
    with LOCK:
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def send(service: str, method: str, path: str) -> bytes:
    """Send one legitimate request and count it; a failure is told with its answer."""
    COUNT["sent"] += 1
    try:
        connection = http.client.HTTPConnection("127.0.0.1", PORTS[service], timeout=20)
        connection.request(method, path, headers={"host": f"{service}.shop"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
    except OSError as err:
        tell({"failed": f"{method} {path}", "why": repr(err)})
        return b""
    except http.client.HTTPException as err:
        tell({"failed": f"{method} {path}", "why": repr(err)})
        return b""
    if answer.status < 400:
        COUNT["allowed"] += 1
    else:
        tell({"failed": f"{method} {path}", "status": answer.status, "why": body.decode("latin-1")[:400]})
    return body


def visit(number: int) -> None:
    """One customer's visit; every seventh one empties the basket first (the rare call)."""
    basket = uuid.uuid4()
    send("web", "GET", "/" if number % 2 else "/products")
    send("web", "GET", f"/products/{number * 37 % 5000 + 1}")
    send("web", "POST", f"/basket/{basket}/items")
    send("web", "GET", f"/basket/{basket}")
    if number % 7 == 3:
        send("web", "DELETE", f"/basket/{basket}")
    if number % 3 == 0:
        made = send("web", "POST", f"/basket/{basket}/checkout")
        order = json.loads(made or b"{}").get("order")
        if order:
            send("orders", "GET", f"/orders/{order}")
    if number % 5 == 0:
        send("web", "GET", "/healthz")


def raw(line: str) -> None:
    """Send the bytes that a line asks for and tell the whole answer."""
    asked = json.loads(line)
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", PORTS[asked["service"]]), timeout=10) as connection:
            connection.sendall(asked["bytes"].encode("latin-1"))
            while len(answer) < 65536 and (piece := connection.recv(65536)):
                answer += piece
    except OSError as err:
        tell({"id": asked["id"], "answer": answer.decode("latin-1"), "error": repr(err)})
        return
    tell({"id": asked["id"], "answer": answer.decode("latin-1")})


def shop() -> None:
    """Visit after visit, with a short pause that the end of stdin cuts."""
    for number in itertools.count():
        visit(number)
        tell({"count": dict(COUNT)})
        if STOP.wait(0.05):
            break


visitors = threading.Thread(target=shop)
visitors.start()
for request in sys.stdin:
    raw(request)
STOP.set()
visitors.join()
tell({"count": dict(COUNT), "done": True})
