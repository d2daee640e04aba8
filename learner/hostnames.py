"""Names of peers outside, as a capture shows them: what TLS asked for, and what DNS had answered with the address.

Both are what a caller says or was told, and prove nothing: they name what it wanted, so that a rule can speak of a name
where the address changes daily. Where they disagree, or an address has several names, nobody guesses: it stays an
address. Plain packets alone are read (as `learner.columns` has it), and of a hello only its first segment.
"""

from __future__ import annotations

import ipaddress
from typing import Any, TypeAlias

import numpy as np

from learner.columns import Records, network
from learner.flows import Row
from learner.packets import TCP, UDP
from mesh.clienthello import early_name
from mesh.dnswire import heard

# of one caller, so that one that asks for names all day takes no room from others
MAX_OF_ONE = 5_000
MAX_CALLERS = 10_000
_MAX_NAMES = 8
_MAX_NAME = 253
# programs keep an address for a while after it ran out, and resolvers hand out a TTL of zero
_LEAST_S, _MOST_S = 60, 86_400
_IPV4, _IPV6, _DNS, _HELLO = 0x0800, 0x86DD, 53, 22
Array: TypeAlias = Any  # of numpy, into which mypy does not look
Connection = tuple[bytes, int, bytes, int]
Answers = dict[bytes, dict[str, tuple[int, int]]]


class Hostnames:
    """The names that were seen so far; ``left_out`` counts what there was no room for."""

    def __init__(self) -> None:
        self.left_out = 0
        self._asked: dict[bytes, dict[Connection, tuple[str, int]]] = {}
        self._answered: dict[bytes, Answers] = {}

    def look(self, records: Records) -> None:
        """Take in the packets of a block: answers of DNS by UDP, and the beginnings of TLS."""
        if not len(records.begin):
            return
        layer3, kind, plain = network(records)
        for family, header in ((_IPV4, 20), (_IPV6, 40)):
            found = np.nonzero(plain & (kind == family) & (records.kept >= layer3 + header + 12))[0]
            if len(found):
                self._family(records, found, layer3, family)

    def name_of(self, row: Row) -> str | None:
        """The name of a conversation's called side.

        1. What TLS asked for on this very connection, unless DNS answered this caller otherwise.
        2. Else the one name that DNS had answered this caller with, when it began.
        """
        source, destination = (ipaddress.ip_address(text).packed for text in (row.source_ip, row.destination_ip))
        answered = self._answered.get(source, {}).get(destination, {})
        names = {name for name, (first, last) in answered.items() if first <= row.first_ns <= last}
        # (1)
        connection = (source, row.source_port, destination, row.destination_port)
        asked = self._asked.get(source, {}).get(connection)
        if asked is not None and row.first_ns <= asked[1] <= row.last_ns:
            return asked[0] if not names or asked[0] in names else None
        # (2)
        return names.pop() if len(names) == 1 else None

    def _family(self, records: Records, found: Array, layer3: Array | int, family: int) -> None:
        """The packets of one family that may hold a name, read one by one: they are few."""
        header, wide = (20, 4) if family == _IPV4 else (40, 16)
        data = records.data
        at = records.begin[found] + (layer3[found] if isinstance(layer3, np.ndarray) else layer3)
        protocol = data[at + (9 if header == 20 else 6)]
        fragment = (data[at + 6] & 0x3F) | data[at + 7]
        whole = (data[at] == 0x45) & (fragment == 0) if family == _IPV4 else data[at] >> 4 == 6
        source_port = data[at + header].astype(np.int64) << 8 | data[at + header + 1]
        end = records.begin[found] + records.kept[found]
        answers = whole & (protocol == UDP) & (source_port == _DNS) & (at + header + 8 < end)
        # where the payload of TCP would begin; a place behind the packet is looked at nowhere
        tcp = whole & (protocol == TCP) & (at + header + 20 <= end)
        offset = np.where(tcp, at + header + 12, 0)
        begin = np.where(tcp, at + header + (data[offset] >> 4).astype(np.int64) * 4, 0)
        tcp &= begin + 6 <= end
        begin = np.where(tcp, begin, 0)
        hellos = tcp & (data[begin] == _HELLO) & (data[begin + 1] == 3) & (data[begin + 5] == 1)
        for index in np.nonzero(answers | hellos)[0].tolist():
            place, time_ns = int(at[index]), int(records.time_ns[found[index]])
            head = data[place : place + header + 4].tobytes()
            source, destination = (head[header - 2 * wide :][:wide], head[header - wide :][:wide])
            ports = int.from_bytes(head[header : header + 2]), int.from_bytes(head[header + 2 : header + 4])
            if answers[index]:
                self._answer(destination, data[place + header + 8 : int(end[index])].tobytes(), time_ns)
            else:
                hello = data[int(begin[index]) : int(end[index])].tobytes()
                self._hello((source, ports[0], destination, ports[1]), hello, time_ns)

    def _answer(self, caller: bytes, message: bytes, time_ns: int) -> None:
        try:
            name, addresses = heard(message)
        except ValueError:
            return
        if not addresses or not _is_plain(name):
            return
        mine = self._room(self._answered, caller)
        for address, ttl in addresses:
            until = time_ns + min(max(ttl, _LEAST_S), _MOST_S) * 1_000_000_000
            if mine is None or (address not in mine and len(mine) >= MAX_OF_ONE):
                self.left_out += 1
                continue
            names = mine.setdefault(address, {})
            if name in names or len(names) < _MAX_NAMES:
                # what was answered again in time held all the while
                names[name] = (names[name][0] if name in names and time_ns <= names[name][1] else time_ns, until)

    def _hello(self, connection: Connection, data: bytes, time_ns: int) -> None:
        name = early_name(data)
        if not name or not _is_plain(name):
            return
        mine = self._room(self._asked, connection[0])
        if mine is None or (connection not in mine and len(mine) >= MAX_OF_ONE):
            self.left_out += 1
        else:
            mine[connection] = (name, time_ns)

    @staticmethod
    def _room(callers: dict[bytes, dict[Any, Any]], caller: bytes) -> dict[Any, Any] | None:
        if caller not in callers and len(callers) >= MAX_CALLERS:
            return None
        return callers.setdefault(caller, {})


def _is_plain(name: str) -> bool:
    return (
        0 < len(name) <= _MAX_NAME
        and name.isascii()
        and name.replace("-", "").replace(".", "").replace("_", "").isalnum()
    )
