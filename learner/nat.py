"""Whose addresses were translated, by what conntrack printed: callees behind a service's, callers behind a gateway's.

1. A connection's original tuple is what the caller sent, the reply tuple who answered, and to whom.
2. Where both tuples differ in the callee, a flow to the called address (by the same caller, if that is known) is one to
   who answered, if that was one socket alone.
3. Where they differ in the caller, a flow from the translated address is one of the caller: by its port, or, where
   that is not known, if only one caller was translated so for that callee.
4. What more than one connection could mean stays as it is: nobody is guessed.

Memory is bounded by ``MAX_ENTRIES``.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from learner.sources.conntrack import Entry, read_entry
from learner.sources.ledger import Ledger
from learner.sources.rows import Input
from mesh.flow import Flow
from mesh.problems import Diagnostic

MAX_ENTRIES = 500_000
Socket = tuple[str, int]


class Translations:
    """What is known of translated addresses."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._callees: defaultdict[tuple[str | None, Socket], set[Socket]] = defaultdict(set)
        self._callers: defaultdict[tuple[str, int | None, Socket], set[str]] = defaultdict(set)
        self._count = 0
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Learn from one entry (steps 1 to 3)."""
        caller, _, called_ip, called_port = entry.original
        answered_ip, answered_port, seen_ip, seen_port = entry.reply
        called, answered = (called_ip, called_port), (answered_ip, answered_port)
        if self._count >= MAX_ENTRIES:
            return
        self._count += 1
        # (2)
        if called != answered:
            self._callees[(caller, called)].add(answered)
            self._callees[(None, called)].add(answered)
        # (3)
        if seen_ip != caller:
            self._callers[(seen_ip, seen_port, answered)].add(caller)
            self._callers[(seen_ip, None, answered)].add(caller)

    def apply(self, flows: Iterable[Flow]) -> Iterator[Flow]:
        """The flows with the addresses of the ends themselves (steps 2 to 4)."""
        for flow in flows:
            yield self._own(flow) if self._count else flow

    def _own(self, flow: Flow) -> Flow:
        if flow.destination_ip is None:
            return flow
        callee = flow.destination_ip, flow.destination_port
        # (2)
        answered = self._callees.get((flow.source_ip, callee)) or self._callees.get((None, callee)) or set()
        if len(answered) == 1:
            callee = next(iter(answered))
        # (3)
        source = flow.source_ip
        if source is not None:
            callers = self._callers.get((source, flow.source_port, callee)) or set()
            if len(callers) == 1:
                source = next(iter(callers))
        if (source, *callee) == (flow.source_ip, flow.destination_ip, flow.destination_port):
            return flow
        return dataclasses.replace(flow, source_ip=source, destination_ip=callee[0], destination_port=callee[1])


def read_translations(path: pathlib.Path, findings: list[Diagnostic]) -> Translations:
    """Read what `conntrack -E` or `-L` printed, as text or XML; lines that are none are findings.

    Raises Invalid LM4001 when the file cannot be read.
    """
    found = Translations()
    source = Input(path, findings, Ledger(file=str(path), source="conntrack"))
    for number, line in source.lines():
        if line.strip().startswith((b"conntrack v", b"<?xml", b"<conntrack>", b"</conntrack>")):
            continue
        try:
            entry = read_entry(line)
        except ValueError as err:
            source.broken(number, str(err))
        else:
            if entry is not None:
                found.add(entry)
    return found
