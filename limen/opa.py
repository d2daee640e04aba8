"""A real OPA as an engine: started for one command on a socket of its own, fed, asked, and ended.

OPA is the user's binary; `LIMEN_OPA` names it, else the one on PATH is taken. This module decides nothing: an OPA that
fails, or that says something other than a decision, is an error, and errors are denials to whoever asks.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from limen.unixhttp import UnixConnection
from mesh.problems import NotFound, Unavailable
from policyengine.compile.rego import DATA_PATH, FIXED_MODULES, Program

START_DEADLINE_S = 60.0
QUERY_DEADLINE_S = 60.0
Document = Mapping[str, object]


def find_opa() -> str:
    """The OPA to use.

    Raises NotFound LM2611 when there is none.
    """
    named = os.environ.get("LIMEN_OPA")
    found = shutil.which(named or "opa")
    if found is None:
        raise NotFound("LM2611", name=named or "opa")
    return found


class Opa:
    """A running OPA server, by its socket. Use `running_opa`."""

    def __init__(self, socket_path: pathlib.Path) -> None:
        self._connection = UnixConnection(socket_path, timeout=QUERY_DEADLINE_S)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def load(self, program: Program) -> None:
        """Give it a program: the data, then the modules.

        Raises Unavailable LM2612 with what OPA says against it.
        """
        self._call("PUT", "/v1/data/" + "/".join(DATA_PATH), program.release)
        in_turn(program.modules, lambda name, text: self._call("PUT", f"/v1/policies/{name}", text), Unavailable)

    def load_data(self, program: Program) -> None:
        """Give it another program's data: the modules of all programs without custom rules are the same."""
        assert set(program.modules) == set(FIXED_MODULES)
        self._call("PUT", "/v1/data/" + "/".join(DATA_PATH), program.release)

    def decide(self, document: Document) -> object:
        """The decision about one input document.

        Raises Unavailable LM2612.
        """
        return self._result("limen/authz/decision", document)

    def decide_all(self, documents: Iterable[Document]) -> list[object]:
        """The decisions about many, in one query.

        Raises Unavailable LM2612.
        """
        found = self._result("limen/batch/decisions", {"batch": list(documents)})
        if not isinstance(found, list):
            raise Unavailable("LM2612", reason="it gave no decisions")
        return found

    def _result(self, path: str, document: Document) -> object:
        found = self._call("POST", f"/v1/data/{path}", {"input": document})
        return found.get("result") if isinstance(found, dict) else None

    def _call(self, method: str, path: str, body: object) -> object:
        payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        kind = "text/plain" if isinstance(body, str) else "application/json"
        try:
            self._connection.request(method, path, body=payload, headers={"content-type": kind})
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as err:
            self._connection.close()
            raise Unavailable("LM2612", reason=str(err) or type(err).__name__) from err
        if response.status >= 300:
            raise Unavailable("LM2612", reason=_reason(text))
        return json.loads(text) if text else None


def in_turn(modules: Mapping[str, str], put: Callable[[str, str], object], refusal: type[Exception]) -> None:
    """Put modules that may call each other, in an order that OPA takes: it refuses a call of what is not there yet.

    Raises what the last of them was refused with.
    """
    waiting = dict(modules)
    while waiting:
        refused: dict[str, Exception] = {}
        for name, text in waiting.items():
            try:
                put(name, text)
            except refusal as err:
                refused[name] = err
        if len(refused) == len(waiting):
            raise next(iter(refused.values()))
        waiting = {name: waiting[name] for name in refused}


def _reason(text: bytes) -> str:
    """What OPA says of an error, in one line."""
    try:
        found = json.loads(text)
        errors = [str(item.get("message")) for item in found.get("errors", [])]
        return "; ".join([str(found.get("message")), *errors])[:1000]
    except (ValueError, AttributeError):
        return text.decode("utf-8", "replace")[:200]


@contextlib.contextmanager
def running_opa(*arguments: str) -> Iterator[Opa]:
    """Start an OPA server that only this user reaches, and end it.

    Raises NotFound LM2611 and Unavailable LM2612 when it does not begin.
    """
    program = find_opa()
    with tempfile.TemporaryDirectory(prefix="limen-opa-") as folder:
        path = pathlib.Path(folder) / "opa.sock"
        command = [program, "run", "--server", "--disable-telemetry", "--log-level", "error", *arguments]
        process = subprocess.Popen(  # noqa: S603  the user's own OPA
            [*command, "--addr", f"unix://{path}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(process, path)
            with contextlib.closing(Opa(path)) as found:
                yield found
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], path: pathlib.Path) -> None:
    """Until somebody listens at the socket."""
    end = time.monotonic() + START_DEADLINE_S
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            return
        if process.poll() is not None or time.monotonic() > end:
            raise Unavailable("LM2612", reason="it does not begin to listen")
        time.sleep(0.02)
