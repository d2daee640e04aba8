"""How commands reach the server: HTTP over `server.sock` on this host, or HTTPS to a remote one.

Problems come back as they were raised: same code, same facts, same class. This module renders nothing.
"""

from __future__ import annotations

import http.client
import json
import pathlib
from typing import Any

from limen.unixhttp import UnixConnection
from mesh.problems import Conflict, Forbidden, Invalid, NotFound, Problem, Refused, Unavailable

_CLASSES: dict[str, type[Problem]] = {
    "NotFound": NotFound,
    "Conflict": Conflict,
    "Refused": Refused,
    "Forbidden": Forbidden,
    "Invalid": Invalid,
    "Unavailable": Unavailable,
}
TIMEOUT_S = 60.0


class Client:
    """A client of one server's API."""

    def __init__(self, socket_path: pathlib.Path) -> None:
        self._socket_path = socket_path

    def call(self, method: str, path: str, body: object | None = None) -> Any:  # noqa: ANN401  JSON
        """Call a route and return its JSON.

        Raises the Problem that the server answered with, or Unavailable when nobody listens.
        """
        connection = UnixConnection(self._socket_path, timeout=TIMEOUT_S)
        payload = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, body=payload, headers={"content-type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as err:
            raise Unavailable("LM5201", socket=str(self._socket_path), reason=str(err)) from err
        finally:
            connection.close()
        answer = json.loads(text) if text else None
        if response.status < 300:
            return answer
        problem = answer.get("problem") if isinstance(answer, dict) else None
        if not isinstance(problem, dict):
            raise Unavailable("LM5202", status=response.status, path=path)
        kind = _CLASSES.get(str(problem.get("class")), Invalid)
        raise kind(str(problem["code"]), **problem.get("facts", {}))


def _client() -> Client:
    from limen.cli import context  # noqa: PLC0415  the address comes from the command line

    if context.server() is not None:
        raise Invalid("LM5203", url=context.server())
    return Client(context.state() / "server.sock")


def call(method: str, path: str, body: object | None = None) -> Any:  # noqa: ANN401  JSON
    """Call a route of the server that this command line names."""
    return _client().call(method, path, body)


def candidate_policies() -> tuple[str, Any] | None:
    """The hash and the PolicySet of the snapshot that is decided beside the active one, None without one."""
    from policyengine.model import policy_set_from_json  # noqa: PLC0415

    found = call("GET", "/v1/snapshots/candidate")
    return None if found is None else (found["hash"], policy_set_from_json(found["snapshot"]["policies"]))


def active_policies() -> tuple[str, Any]:
    """The active snapshot's hash and its PolicySet.

    Raises NotFound when nothing was ever activated.
    """
    from policyengine.model import policy_set_from_json  # noqa: PLC0415

    found = call("GET", "/v1/snapshots/active")
    if found is None:
        raise NotFound("LM5204")
    return found["hash"], policy_set_from_json(found["snapshot"]["policies"])
