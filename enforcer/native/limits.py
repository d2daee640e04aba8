"""How much one sidecar takes on: connections, those of one caller, handshakes, seconds, memory; and what it sheds.

A limit is there for everything that somebody outside can make grow. What is shed is told with a code: to a caller that
speaks HTTP as an answer, and in a decision record always, folded together where strangers could make many. Between
the limit of connections and the hard end there is a reserve, so that a caller too many can still be told why.
This module does no I/O and holds no clock; who owns a port asks it and tells it.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from mesh.problems import Invalid

RESERVE = 64
SHED = frozenset(("LM3303", "LM3304", "LM3305", "LM3308"))
_SPARE_FILES = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one port; of an outbound one its connections count.

    Times are whole seconds; ``memory_bytes`` is resident, of the process; ``records`` are those that the agent has not
    taken over yet.
    """

    connections: int = 4096
    connections_of_caller: int = 1024
    handshakes: int = 512
    handshake_s: int = 10
    head_s: int = 10
    idle_s: int = 120
    exchange_s: int = 600
    memory_bytes: int = 768 * 1024 * 1024
    records: int = 1 << 62

    @classmethod
    def from_json(cls, told: Mapping[str, object]) -> Limits:
        """Read those that are not the defaults.

        Raises Invalid LM3002 for an unknown name, or what is no whole number above zero.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        found: dict[str, int] = {}
        for name, value in told.items():
            if name not in known or not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise Invalid("LM3002", reason=f"`{name}` is no limit, or not a whole number above zero")
            found[name] = value
        return cls(**found)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> dict[str, int]:
        """Read `NAME=NUMBER` as people write it, into what `from_json` takes.

        Raises Invalid LM3307 for anything else.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        found: dict[str, int] = {}
        for text in texts:
            name, _, number = text.partition("=")
            if name not in known or name in found or not (number.isascii() and number.isdigit()) or int(number) < 1:
                raise Invalid("LM3307", given=text, known=", ".join(sorted(known)))
            found[name] = int(number)
        return found

    def fitted(self, open_files: int) -> Limits:
        """Limits that a process with so many descriptors can keep: a connection takes two."""
        most = max(1, (open_files - _SPARE_FILES - RESERVE) // 2)
        return dataclasses.replace(
            self,
            connections=min(self.connections, most),
            connections_of_caller=min(self.connections_of_caller, most),
            handshakes=min(self.handshakes, most),
        )


DEFAULT = Limits()


class Load:
    """What one port carries at present, and what it had to shed since somebody asked."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._of_caller: collections.Counter[str] = collections.Counter()
        self._count = 0
        self._shed: dict[str, tuple[int, str]] = {}
        # what is wrong with taking on anything now; asked for every request
        self.refusal: Invalid | None = None

    def measure(self, resident_bytes: int, records: int = 0) -> None:
        """Learn how much memory the process has, and how many records wait.

        New work is refused while either is too much (LM3305, LM3308).
        """
        self.refusal = None
        if records > self.limits.records:
            self.refusal = Invalid("LM3308")
        if resident_bytes > self.limits.memory_bytes:
            self.refusal = Invalid("LM3305")

    def is_full(self, handshakes: int) -> bool:
        """Whether not even the reserve has room for one more connection."""
        return self._count + handshakes >= self.limits.connections + RESERVE

    def enter(self, caller: str) -> Invalid | None:
        """Count a verified caller's connection; say what is wrong with serving it (LM3303, LM3305)."""
        self._count += 1
        self._of_caller[caller] += 1
        if self._count > self.limits.connections:
            return Invalid("LM3303", limit=self.limits.connections)
        if self._of_caller[caller] > self.limits.connections_of_caller:
            return Invalid("LM3304", limit=self.limits.connections_of_caller)
        return self.refusal

    def leave(self, caller: str) -> None:
        """Take a connection off the count."""
        self._count -= 1
        self._of_caller[caller] -= 1
        if not self._of_caller[caller]:
            del self._of_caller[caller]

    def shed(self, code: str, peer_ip: str) -> None:
        """Note a stranger's connection that was closed; they are told together."""
        self._shed[code] = (self._shed.get(code, (0, ""))[0] + 1, peer_ip)

    def take_shed(self) -> dict[str, tuple[int, str]]:
        """For each code how many connections were closed since this was asked last, and the last one's address."""
        found, self._shed = self._shed, {}
        return found
