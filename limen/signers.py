"""Signing by processes: Python holds its lock while it signs, so that more cores need more processes.

Signers are started when the first large batch comes, get the issuing key over a socket pair, and share each batch with
this process: whoever is free takes the next piece. What a signer that ended, was killed or hangs had taken is signed
here: the same bytes, whose other signature nobody has seen. A key that cannot leave its token is used here alone.
"""

from __future__ import annotations

import dataclasses
import os
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence

import structlog
from cryptography.exceptions import UnsupportedAlgorithm

from ca.keys import SigningKey, private_to_der
from ca.signing import OwnSigner, Signature
from limen import signerwire
from mesh.problems import Invalid

PIECE = 25
LARGE = 50
"""A batch of fewer parts is signed here: handing it over would take as long."""
ANSWER_WITHIN_S = 5.0
START_AGAIN_AFTER_S = 1.0
REST_AFTER_S = 600.0
"""Signers that no large batch came for in this time end: they hold memory, and the key."""
_AHEAD = 2
_EXITS_WITHIN_S = 2.0


@dataclasses.dataclass(eq=False, slots=True)
class _Signer:
    """A process and the pieces that it has taken, by where they begin."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    is_ready: bool = False
    taken: deque[int] = dataclasses.field(default_factory=deque)


def usual_count() -> int:
    """How many signers a server has that nobody told: one where this process may use two cores (ADR 20)."""
    return 1 if len(os.sched_getaffinity(0)) > 1 else 0


class SignerPool:
    """Signs here and in up to ``count`` other processes. All calls come from one thread, which starts them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._own = OwnSigner()
        self._secret: bytes | None = None
        self._signers: list[_Signer] = []
        self._started = self._asked = float("-inf")
        self.helped = 0
        """How many parts the signers have signed so far."""

    @property
    def pids(self) -> list[int]:
        """The signers that run now."""
        return [signer.process.pid for signer in self._signers]

    def use(self, key: SigningKey) -> None:
        """Sign with this key from now on, here and in every signer."""
        self._own.use(key)
        try:
            self._secret = private_to_der(key.key)
        except (NotImplementedError, UnsupportedAlgorithm, ValueError, TypeError, Invalid):
            # it lives in a token
            self._secret = None
            while self._signers:
                self._drop(self._signers[0], "the key stays in its token")
        for signer in list(self._signers):
            self._tell_key(signer)

    def close(self) -> None:
        """End every signer."""
        while self._signers:
            signer = self._signers.pop()
            signer.link.close()
            _end(signer.process)

    def rest(self) -> None:
        """End the signers when no large batch came for long; the next one starts them again."""
        if self._signers and time.monotonic() - self._asked >= REST_AFTER_S:
            self.close()

    def sign(self, parts: Sequence[bytes]) -> list[Signature]:
        """Sign each part, in order.

        1. A small batch, or a key that stays in its token: signed here.
        2. Signers that are missing are started; one that is not ready yet is not waited for.
        3. Every free signer has its next pieces; while they sign and verify, this process takes a piece itself and does
           the same: a piece costs everybody the same, and whoever is free takes the next one.
        4. What a signer does not answer within 5 s, or not at all, is signed here.
        """
        # (1)
        if not self._count or self._secret is None or len(parts) < LARGE or max(map(len, parts)) > _LONGEST:
            return self._own.sign(parts)
        # (2)
        self._asked = time.monotonic()
        self._start_missing()
        try:
            return self._share(parts)
        except BaseException:
            # what is owed now must not be taken for the answer to something else later
            for signer in [item for item in self._signers if item.taken]:
                self._drop(signer, "the batch was given up")
            raise

    def _share(self, parts: Sequence[bytes]) -> list[Signature]:
        """Steps 3 and 4 of `sign`."""
        waiting = deque(range(0, len(parts), PIECE))
        found: dict[int, list[Signature]] = {}
        while waiting or any(signer.taken for signer in self._signers):
            # (3)
            for signer in list(self._signers):
                while waiting and signer.is_ready and len(signer.taken) < _AHEAD:
                    self._hand(signer, parts, waiting)
            self._hear(parts, found, waiting, wait_s=0 if waiting else ANSWER_WITHIN_S)
            if waiting:
                begin = waiting.popleft()
                found[begin] = self._own.sign_and_verify(parts[begin : begin + PIECE])
        signed = [signature for begin in sorted(found) for signature in found[begin]]
        if len(signed) != len(parts):
            raise AssertionError("every part is signed once")
        return signed

    def _hand(self, signer: _Signer, parts: Sequence[bytes], waiting: deque[int]) -> None:
        begin = waiting.popleft()
        signer.taken.append(begin)
        try:
            signerwire.write(signer.link, signerwire.PARTS, signerwire.pack(parts[begin : begin + PIECE]))
        except OSError as err:
            self._drop(signer, str(err), waiting)

    def _hear(
        self, parts: Sequence[bytes], found: dict[int, list[Signature]], waiting: deque[int], *, wait_s: float
    ) -> None:
        """Take what signers answered; drop those that cannot be read, or all that owe something when time is over."""
        # poll, not select: a server has more than 1,024 connections
        poll = select.poll()
        for signer in self._signers:
            poll.register(signer.link, select.POLLIN)
        readable = {number for number, _ in poll.poll(wait_s * 1000)}
        if not readable and wait_s:
            # (4)
            for signer in [item for item in self._signers if item.taken]:
                self._drop(signer, "it did not answer in time", waiting)
            return
        for signer in [item for item in self._signers if item.link.fileno() in readable]:
            try:
                message = signerwire.read(signer.link)
                if message == (signerwire.READY, b"") and not signer.is_ready:
                    signer.is_ready = True
                    self._tell_key(signer)
                    continue
                if message is None or message[0] != signerwire.PARTS or not signer.taken:
                    raise Invalid("LM5270", reason="it ended" if message is None else "it said what it was not asked")
                values = signerwire.unpack(message[1])
                begin = signer.taken[0]
                if len(values) != len(parts[begin : begin + PIECE]):
                    raise Invalid("LM5270", reason="it signed more or less than it was asked")
            except (OSError, Invalid) as problem:
                self._drop(signer, str(problem), waiting)
                continue
            signer.taken.popleft()
            found[begin] = [Signature(value, is_verified=True) for value in values]
            self.helped += len(values)

    def _start_missing(self) -> None:
        now = time.monotonic()
        if len(self._signers) >= self._count or now - self._started < START_AGAIN_AFTER_S:
            return
        self._started = now
        while len(self._signers) < self._count:
            ours, theirs = socket.socketpair()
            ours.settimeout(ANSWER_WITHIN_S)
            with theirs:
                process = subprocess.Popen(  # noqa: S603  our own interpreter and our own module
                    [sys.executable, "-P", "-m", "limen.signer", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **_python_environment()},
                    pass_fds=(theirs.fileno(),),
                )
            self._signers.append(_Signer(process=process, link=ours))

    def _tell_key(self, signer: _Signer) -> None:
        if signer.is_ready and self._secret is not None:
            try:
                signerwire.write(signer.link, signerwire.KEY, self._secret)
            except OSError as err:
                self._drop(signer, str(err))

    def _drop(self, signer: _Signer, reason: str, waiting: deque[int] | None = None) -> None:
        """End a signer; what it had taken waits again."""
        if signer not in self._signers:
            return
        self._signers.remove(signer)
        signer.is_ready = False
        if waiting is not None:
            waiting.extendleft(reversed(signer.taken))
        signer.taken.clear()
        signer.link.close()
        _end(signer.process)
        structlog.get_logger().warning("a signing process was given up", pid=signer.process.pid, reason=reason)


_LONGEST = min(signerwire.MAX_PART_BYTES, signerwire.MAX_BYTES // PIECE - 2)


def _python_environment() -> dict[str, str]:
    """What this interpreter needs to find our packages, and nothing else of the environment."""
    return {name: os.environ[name] for name in ("PYTHONPATH", "PYTHONHOME") if name in os.environ}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process whose socket is closed; kill it when it does not go."""
    process.terminate()
    try:
        process.wait(_EXITS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
