"""The server asks witnesses for cosignatures: on each checkpoint, from those that `STATE/witness.policy` names.

Cosignatures stand beside the log, in `witness/KEYHASH`: the checkpoint as the log signed it and the line of that one
witness. A witness that is away is asked again; it holds nobody up, and the log grows meanwhile. What a witness says is
believed only when its key says it. This module changes nothing of the log itself.
"""

from __future__ import annotations

import asyncio
import http.client
import pathlib
import ssl
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import structlog

from audit.checkpoint import MAX_CHECKPOINT_BYTES, VerifierKey, cosigned_at
from audit.reader import CHECKPOINT, KEY, WITNESSED, Reader, read_key
from audit.shelf import write
from audit.witness import SIZE_TYPE, Entry, parse_policy, request_for
from mesh.problems import Invalid, Problem, Unavailable

POLICY = "witness.policy"
_TIMEOUT_S = 5.0
_EVERY_S = 1.0
_MAX_POLICY_BYTES = 1 << 20


class Cosigning:
    """What was asked of whom. Its methods are called from one thread at a time."""

    def __init__(self, folder: pathlib.Path, policy: pathlib.Path) -> None:
        self._folder, self._policy = folder, policy
        self._text: str | None = None
        self._entries: tuple[Entry, ...] = ()
        # the size that each witness cosigned last, and what went wrong with it last: said once
        self._sizes: dict[str, int] = {}
        self._said: dict[str, str] = {}

    def step(self) -> int:
        """Ask every witness that has not cosigned the newest checkpoint; returns how many did now."""
        self._refresh()
        if not self._entries or not (self._folder / CHECKPOINT).exists():
            return 0
        reader = Reader(self._folder, read_key(self._folder / KEY))
        count = 0
        for entry in self._entries:
            name = str(entry.key)
            if self._sizes.get(name) == reader.size:
                continue
            try:
                self._ask(entry, reader)
            except Problem as problem:
                self._complain(name, f"{problem.code} {problem.message}", entry.name)
            else:
                self._said.pop(name, None)
                count += 1
        return count

    def _refresh(self) -> None:
        """Read the policy again when it changed; one with an error changes nothing."""
        try:
            with self._policy.open("r", encoding="utf-8") as file:
                text = file.read(_MAX_POLICY_BYTES)
        except FileNotFoundError:
            text = ""
        except (OSError, UnicodeDecodeError) as err:
            self._complain(POLICY, str(err), POLICY)
            return
        if text == self._text:
            return
        self._text = text
        try:
            self._entries = parse_policy(text)
        except Invalid as problem:
            self._complain(POLICY, f"{problem.code} {problem.message}", POLICY)

    def _ask(self, entry: Entry, reader: Reader) -> None:
        """Ask one witness.

        1. The proof begins at the size that the witness cosigned last; one that knows better says so, and is asked
           again from there.
        2. Its answer has a line that its key signed over this very checkpoint.
        3. What it cosigned is kept where verifiers look.

        Raises Unavailable LM6086 for a witness that is away or refuses, Invalid LM6081 when it saw a larger log.
        """
        name = str(entry.key)
        # (1)
        old = self._sizes.get(name, 0)
        status, kind, body = _post(entry, request_for(reader, old).to_bytes())
        if status == 409 and kind == SIZE_TYPE and body.strip().isdigit() and len(body) < 22:
            old = int(body)
            status, kind, body = _post(entry, request_for(reader, old).to_bytes())
        if status != 200:
            reason = body[:200].decode("utf-8", "replace").strip()
            raise Unavailable("LM6086", name=entry.name, reason=f"status {status}: {reason}")
        # (2)
        own = _own_lines(body, entry.key)
        if not own:
            raise Unavailable("LM6086", name=entry.name, reason="its answer has no line of its key")
        note = reader.note + own
        if cosigned_at(note, entry.key) is None:
            raise Unavailable("LM6086", name=entry.name, reason="its answer has no line of its key")
        # (3)
        try:
            write(self._folder / WITNESSED / entry.key.hash.hex(), note)
        except OSError as err:
            raise Unavailable("LM6023", path=self._folder, reason=err.strerror or str(err)) from err
        self._sizes[name] = reader.size

    def _complain(self, key: str, reason: str, name: str) -> None:
        if self._said.get(key) != reason:
            self._said[key] = reason
            structlog.get_logger().warning("no cosignature", witness=name, reason=reason)


def _own_lines(body: bytes, key: VerifierKey) -> bytes:
    """The lines of an answer that carry a key's name; whether they verify is asked of the whole note."""
    begin = f"— {key.name} ".encode()
    return b"".join(line + b"\n" for line in body.split(b"\n") if line.startswith(begin))


def _post(entry: Entry, body: bytes) -> tuple[int, str, bytes]:
    """Send a request; status, content type and body of the answer.

    Raises Unavailable LM6086.
    """
    parts = urllib.parse.urlsplit(entry.url)
    connection: http.client.HTTPConnection
    try:
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    except ValueError as err:
        raise Unavailable("LM6086", name=entry.name, reason=str(err)) from err
    try:
        headers = {"content-type": "text/plain; charset=utf-8", "user-agent": "limen"}
        connection.request("POST", f"{parts.path}/add-checkpoint", body=body, headers=headers)
        answer = connection.getresponse()
        found = answer.read(MAX_CHECKPOINT_BYTES)
        return answer.status, answer.headers.get("content-type", ""), found
    except (OSError, http.client.HTTPException, ValueError) as err:
        raise Unavailable("LM6086", name=entry.name, reason=str(err) or type(err).__name__) from err
    finally:
        connection.close()


async def keep_cosigned(cosigning: Cosigning, stop: asyncio.Event) -> None:
    """Ask again and again until the server stops, on a thread of its own."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "witness") as worker:
        while not stop.is_set():
            try:
                await loop.run_in_executor(worker, cosigning.step)
            except Problem as problem:
                structlog.get_logger().warning("no cosignature", code=problem.code, reason=problem.message)
            try:
                async with asyncio.timeout(_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                continue
