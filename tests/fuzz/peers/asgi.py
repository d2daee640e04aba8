"""`python asgi.py FD`: uvicorn with h11 on an inherited socket; every answer says what was read, in `x-seen`."""

from __future__ import annotations

import base64
import json
import socket
import sys
from typing import Any

import uvicorn


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read the whole request, then say what it was; one that is cut short is not answered."""
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    query = scope["query_string"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    headers = [(name.lower(), value) for name, value in scope["headers"]]
    seen = {
        "method": scope["method"],
        "target": target.decode("latin-1"),
        "host": [value.decode("latin-1") for name, value in headers if name == b"host"],
        "role": [value.decode("latin-1") for name, value in headers if name == b"x-role"],
        "source": [value.decode("latin-1") for name, value in headers if name == b"x-limen-source"],
        "length": length,
        # what nginx says it read, when it stands before this server
        "nginx": {name.decode(): value.decode("latin-1") for name, value in headers if name.startswith(b"x-nginx-")},
    }
    fields = [(b"x-seen", base64.b64encode(json.dumps(seen).encode())), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_level="critical", timeout_keep_alive=60)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
