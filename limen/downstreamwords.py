"""What a server below says of itself, as messages and as values. Pure; who may say what is decided elsewhere."""

from __future__ import annotations

import datetime as dt

from ca.neighbours import Words, Work
from ca.slotstore import Live
from mesh.clock import format_time, parse_time
from mesh.problems import Invalid
from mesh.proto import node_pb2 as pb

MOST = (1 << 53) - 1


def words_of(request: pb.PublishRequest, node: str) -> Words:
    """Read what a server below says. Raises Invalid LM1627."""
    return Words(
        jwks=tuple(bytes(item) for item in request.jwks),
        crls=tuple(bytes(item) for item in request.crls),
        works=tuple(
            Work(
                certificate=item.certificate,
                live=Live(
                    certificates=min(item.certificates, MOST),
                    identities=min(item.identities, MOST),
                    nodes=min(item.nodes, MOST),
                    last_end=_time(item.last_end, node),
                    last_issued=_time(item.last_issued, node),
                ),
            )
            for item in request.works
        ),
    )


def request_of(words: Words, *, trust: int, newer: bytes) -> pb.PublishRequest:
    """Write what this server says of itself."""
    return pb.PublishRequest(
        jwks=list(words.jwks),
        crls=list(words.crls),
        works=[
            pb.CaWork(
                certificate=item.certificate,
                certificates=item.live.certificates,
                identities=item.live.identities,
                nodes=item.live.nodes,
                last_end="" if item.live.last_end is None else format_time(item.live.last_end),
                last_issued="" if item.live.last_issued is None else format_time(item.live.last_issued),
            )
            for item in words.works
        ],
        trust=trust,
        newer_trust=newer,
    )


def _time(text: str, node: str) -> dt.datetime | None:
    try:
        return parse_time(text) if text else None
    except ValueError as err:
        raise Invalid("LM1627", name=node, reason="a time cannot be read") from err
