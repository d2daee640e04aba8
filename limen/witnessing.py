"""The witness that anybody can run: its state on a disk, and its HTTP door (C2SP tlog-witness).

State is a directory: the wrapped key, and for each log the last checkpoint that was cosigned. That file is durable
under its name before a cosignature leaves, so that no kill and no loss of power makes the witness forget what it
vouched for. One process at a time holds the directory. It needs no account, no database, nothing of the log's server.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import pathlib
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Algorithm, Checkpoint, VerifierKey, cosign, read_checkpoint, read_note
from audit.shelf import write
from audit.witness import MAX_BODY_BYTES, SIZE_TYPE, AddCheckpoint, Answer, decide
from mesh.clock import Clock
from mesh.problems import Conflict, Invalid, Unavailable
from mesh.wrapping import load_wrapping_key

PATH = "/add-checkpoint"
_BODY_S = 10.0
_KEY, _PUBLIC = "key", "key.pub"
Message = MutableMapping[str, Any]


class Witness:
    """A witness's memory and key. One process at a time, one thread at a time."""

    def __init__(self, folder: pathlib.Path, name: str, logs: Iterable[VerifierKey], clock: Clock) -> None:
        """Open a witness's directory, or begin it.

        Raises Conflict LM6084 when another process holds it, Invalid LM6085 when it was begun under another name,
        LM6030 for a name that no key may have, LM1201 or LM1202 for its key, LM6031 and LM6032 for a checkpoint in it
        that a log of ``logs`` did not sign, Unavailable LM6023 when the disk refuses.
        """
        self._folder, self._clock = folder, clock
        self._logs = {item.name: item for item in logs}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._begin(name)
            except BaseException:
                self.close()
                raise
        except OSError as err:
            raise Unavailable("LM6023", path=folder, reason=err.strerror or str(err)) from err

    def _begin(self, name: str) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise Conflict("LM6084", path=self._folder) from err
        (self._folder / "logs").mkdir(mode=0o700, exist_ok=True)
        self._key = _load_key(self._folder)
        self.key = VerifierKey(name=name, key=self._key.public_key(), algorithm=Algorithm.COSIGNATURE)
        # a name with a space or a plus would make lines that nobody can read
        VerifierKey.parse(str(self.key))
        self._publish()
        self._held = dict(self._read_held())

    def close(self) -> None:
        """Let another process have the directory."""
        os.close(self._handle)

    def _publish(self) -> None:
        path = self._folder / _PUBLIC
        if path.exists():
            begun = VerifierKey.parse(path.read_text("ascii"))
            if str(begun) != str(self.key):
                raise Invalid("LM6085", path=self._folder, name=begun.name)
        else:
            write(path, f"{self.key}\n".encode(), is_durable=True)

    def _read_held(self) -> Iterable[tuple[str, Checkpoint]]:
        for log in self._logs.values():
            path = self._path(log.name)
            if path.exists():
                yield log.name, read_checkpoint(path.read_bytes(), log)

    def _path(self, origin: str) -> pathlib.Path:
        return self._folder / "logs" / hashlib.sha256(origin.encode()).hexdigest()

    def held(self) -> dict[str, Checkpoint]:
        """The last checkpoint that was cosigned, by log."""
        return dict(self._held)

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer a request: decide, keep the checkpoint durably, and only then cosign it.

        Raises Unavailable LM6023 when the disk refuses: nothing was cosigned then.
        """
        try:
            request = AddCheckpoint.parse(body)
        except Invalid as problem:
            return Answer(status=400, reason=problem.message)
        answer = decide(request, self._logs, self._held)
        if answer.accepted is None:
            if answer.status == 422 or (answer.status == 409 and not answer.body):
                # a log that signed this shows two histories: its signature is the evidence
                said = request.note.decode("utf-8", "replace")[:4096]
                structlog.get_logger().warning("a log shows another history", code="LM6083", note=said)
            return answer
        said_by_log = answer.accepted
        try:
            write(self._path(said_by_log.origin), request.note, is_durable=True)
        except OSError as err:
            raise Unavailable("LM6023", path=self._folder, reason=err.strerror or str(err)) from err
        self._held[said_by_log.origin] = said_by_log
        text, _ = read_note(request.note)
        line = cosign(text, self.key.name, self._key, at=int(self._clock.now().timestamp()))
        return Answer(status=200, body=line, accepted=said_by_log)


def _load_key(folder: pathlib.Path) -> Ed25519PrivateKey:
    """The witness's key, wrapped as a server's keys are, made when there is none and nothing was cosigned yet."""
    key_file = os.environ.get("LIMEN_KEY_FILE")
    wrapping = load_wrapping_key(folder, pathlib.Path(key_file) if key_file else None)
    path = folder / _KEY
    if not path.exists():
        plain = Ed25519PrivateKey.generate().private_bytes_raw()
        write(path, wrapping.wrap("witness", plain, secrets.token_bytes(12)), is_durable=True)
        path.chmod(0o600)
    return Ed25519PrivateKey.from_private_bytes(wrapping.unwrap("witness", path.read_bytes()))


class Door:
    """The HTTP door, an ASGI application: POST PREFIX/add-checkpoint and nothing else."""

    def __init__(self, witness: Witness, worker: ThreadPoolExecutor) -> None:
        self._witness, self._worker = witness, worker

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        answer = await self._answer(scope, receive)
        kind = SIZE_TYPE if answer.status == 409 and answer.body else "text/plain; charset=utf-8"
        text = answer.body or (f"{answer.reason}\n" if answer.reason else "")
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(text.encode())).encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})

    async def _answer(self, scope: Message, receive: Callable[[], Awaitable[Message]]) -> Answer:
        if not str(scope["path"]).endswith(PATH):
            return Answer(status=404, reason="a witness answers POST /add-checkpoint")
        if scope["method"] != "POST":
            return Answer(status=405, reason="a witness answers POST /add-checkpoint")
        body = b""
        try:
            async with asyncio.timeout(_BODY_S):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > MAX_BODY_BYTES:
                        return Answer(status=413, reason="a request is smaller")
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        break
        except TimeoutError:
            return Answer(status=408, reason="the request did not come whole")
        try:
            # one thread: what is compared, kept and cosigned is so for one request after the other
            return await asyncio.get_running_loop().run_in_executor(self._worker, self._witness.add_checkpoint, body)
        except Unavailable as problem:
            structlog.get_logger().error("the witness cannot keep a checkpoint", reason=problem.message)
            return Answer(status=500, reason="nothing was cosigned")
