"""What a host believes of its own trust domain: the newest trust state that the pinned server signed, kept on the disk.

A number below the highest seen is refused, and the same number with other words: a server that was restored from a
backup must not bring back what was revoked. It is shown the newer state first, at every watch, and takes it over.
"""

from __future__ import annotations

import pathlib

from enforcer.nodestate import NodeState, replace_file
from mesh.bundle import TrustBundle, parse_bundle
from mesh.problems import Forbidden, Problem
from mesh.spiffe import TrustDomain
from mesh.truststate import TrustState, read_trust_state

_FILE = "trust.jws"


class Trusted:
    """The trust state of a host."""

    def __init__(self, folder: pathlib.Path, own: TrustDomain, state: NodeState) -> None:
        self._path, self._own, self._state = folder / _FILE, own, state
        self._signed = b""
        self._said: TrustState | None = None
        self.bundle = parse_bundle(own, state.bundle)
        try:
            data = self._path.read_bytes()
            self._said = read_trust_state(data, own, state.server_certificate)
            self.bundle = self._said.bundle
            self._signed = data
        except (OSError, Problem):
            # a first start, or another server than before: the bundle that came with the SVID is what there is
            self._signed = b""

    @property
    def sequence(self) -> int:
        """Its number; 0 before the first one."""
        return (self.bundle.sequence or 0) if self._signed else 0

    @property
    def signed(self) -> bytes:
        """The state as the server signed it, to show it to a server that lost it; empty before the first one."""
        return self._signed

    def take(self, data: bytes) -> bool:
        """Take a state; durable when it returns. Whether anything changed.

        Raises Forbidden LM1303 for one that the pinned server did not sign, LM1313 for a lower number than was seen or
        for other words under the same number, Invalid LM1304 and LM1001 for one that cannot be read.
        """
        if data == self._signed:
            return False
        found = read_trust_state(data, self._own, self._state.server_certificate)
        is_other = self._said is not None and found.sequence == self._said.sequence and not found.is_like(self._said)
        if found.sequence < self.sequence or is_other:
            raise Forbidden("LM1313", sequence=found.sequence, seen=self.sequence)
        if self._signed and found.bundle == self.bundle:
            # the same words, signed again after a restart
            return False
        replace_file(self._path, data)
        self._signed, self._said, self.bundle = data, found, found.bundle
        return True

    def take_bundle(self, document: bytes) -> bool:
        """Take the bundle that came with a renewed SVID, if it is newer than all that was signed. Whether it was."""
        found = parse_bundle(self._own, document)
        if (found.sequence or 0) <= (self.bundle.sequence or 0):
            return False
        # what is pinned is not known before the server says so
        self.bundle = found
        return True


def for_sidecar(bundle: TrustBundle, text: object) -> dict[str, object]:
    """A bundle as a sidecar is told it; ``text`` writes bytes."""
    assert callable(text)
    return {
        "authorities": [text(der) for der in bundle.x509_authorities],
        "intermediates": None if bundle.intermediates is None else sorted(bundle.intermediates),
        "crls": [text(der) for der in bundle.crls],
    }
