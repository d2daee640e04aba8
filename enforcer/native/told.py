"""Reads the fields of what an agent tells its sidecar: each has its kind, and nothing stands in for one that has not.

Every function raises Invalid LM3002 with the field that is something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from enforcer.native import wire
from mesh.bundle import TrustBundle
from mesh.problems import Invalid
from mesh.spiffe import TrustDomain


def bundle(domain: TrustDomain, told: object) -> TrustBundle:
    """A trust domain's bundle."""
    if not isinstance(told, dict):
        raise Invalid("LM3002", reason="a bundle has authorities")
    pins = told.get("intermediates")
    return TrustBundle(
        trust_domain=domain,
        x509_authorities=tuple(wire.text_to_bytes(item) for item in items(told.get("authorities"))),
        intermediates=None if pins is None else frozenset(str(item) for item in items(pins)),
        crls=tuple(wire.text_to_bytes(item) for item in items(told.get("crls"))),
    )


def text(row: Mapping[str, object], name: str) -> str:
    """A text."""
    value = row.get(name)
    if not isinstance(value, str):
        raise Invalid("LM3002", reason=f"`{name}` is text")
    return value


def number(row: Mapping[str, object], name: str) -> int:
    """A whole number, zero or more."""
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Invalid("LM3002", reason=f"`{name}` is a whole number")
    return value


def handle(row: Mapping[str, object]) -> int | None:
    """The number of an open socket; None where none is named."""
    return None if row.get("handle") is None else number(row, "handle")


def items(value: object) -> list[object]:
    """A list, whatever is in it."""
    if not isinstance(value, list):
        raise Invalid("LM3002", reason="a list is missing")
    return value


def mapping(row: Mapping[str, object], name: str) -> dict[str, object]:
    """An object."""
    value = row.get(name)
    if not isinstance(value, dict):
        raise Invalid("LM3002", reason=f"`{name}` is an object")
    return value


def rows(message: wire.Message, name: str) -> list[dict[str, object]]:
    """A list of objects."""
    found = items(message.get(name))
    if not all(isinstance(row, dict) for row in found):
        raise Invalid("LM3002", reason=f"`{name}` is a list of objects")
    return cast("list[dict[str, object]]", found)  # every row was checked
