"""How Istio names callers, paths, hosts and values, and what of it Limen can say.

Each reader says a value exactly, or by less, or by more, as it is asked: an allow may come to hold less than it did, a
deny more, and what a rule leaves out the other way round. What cannot be said at all is refused by name.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from mesh.spiffe import SpiffeIdError, SpiffePattern, TrustDomain
from policyengine.canonical import HostPattern, PathPattern, PatternError
from policyengine.compile.boxes import Field, Kind, field_of
from policyengine.importers.documents import ASSUMED, REFUSED, STRICTER, Document
from policyengine.model import Network
from policyengine.reading import METHOD

T = TypeVar("T")
_HEADER_VALUE = re.compile(r"[\x21-\x2b\x2d-\x7e](?:[\x20-\x2b\x2d-\x7e]*[\x21-\x2b\x2d-\x7e])?")
_LOCAL = "cluster.local"
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")


class CannotSay(Exception):  # noqa: N818  not an error: the caller refuses or widens
    """A value that Limen has no words for; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Meaning(Generic[T]):
    """What a value comes to: patterns (None is anything), and why they are not quite the value, if so."""

    patterns: tuple[T, ...] | None
    differs: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """Where values stand and which way they may be wrong: ``widens`` may hold more, otherwise less."""

    document: Document
    rule: str
    is_deny: bool
    domain: TrustDomain
    namespace: str = "default"

    def field(
        self,
        name: str,
        values: Sequence[str] | None,
        not_values: Sequence[str] | None,
        read: Callable[[Reading, str, bool], Meaning[T]],
        kind: Kind[T],
    ) -> Field[T] | None:
        """A field with what it leaves out; None when nothing is inside.

        In a deny the inside may grow and the outside shrink; in an allow the other way round.
        """
        inside = self._patterns(name, values, read, widens=self.is_deny)
        not_name = f"not{name[:1].upper()}{name[1:]}"
        outside = self._patterns(not_name, not_values, read, widens=not self.is_deny) if not_values else ()
        if inside == () or outside is None:
            return None
        return field_of(kind, inside, outside)

    def _patterns(
        self,
        name: str,
        values: Sequence[str] | None,
        read: Callable[[Reading, str, bool], Meaning[T]],
        *,
        widens: bool,
    ) -> tuple[T, ...] | None:
        if values is None:
            return None
        found: list[T] = []
        for value in values:
            what = f"rule {self.rule}, {name} `{value}`"
            try:
                meaning = read(self, value, widens)
            except CannotSay as err:
                if not widens:
                    self.document.note(REFUSED if not self.is_deny else STRICTER, what, str(err))
                    continue
                meaning = Meaning(None, str(err))
            if meaning.differs:
                self.document.note(STRICTER, what, meaning.differs)
            if meaning.patterns is None:
                return None
            found += meaning.patterns
        return tuple(found)


def principal(reading: Reading, value: str, widens: bool) -> Meaning[SpiffePattern]:  # noqa: FBT001  one shape for all
    """`td/ns/NS/sa/SA`, a prefix `td/ns/NS/*`, a suffix `*/ns/NS/sa/SA`, or `*` for everybody with an identity."""
    if value == "*":
        return Meaning(None)
    text = value.replace(_LOCAL, str(reading.domain), 1) if value.startswith(f"{_LOCAL}/") else value
    if text.startswith("*/ns/") and "*" not in text[1:]:
        return Meaning(_in_every_domain(reading, text[2:], widens), "" if widens else _assume_local(reading, value))
    try:
        if text.endswith("/*"):
            return Meaning((SpiffePattern.parse(f"spiffe://{text[:-2]}/**"),))
        if text.endswith("*"):
            stem = text[:-1].rpartition("/")[0]
            if widens and stem:
                parent = SpiffePattern.parse(f"spiffe://{stem}/**")
                return Meaning((parent,), "a prefix inside a segment is everything below that segment")
            raise CannotSay("a pattern of callers ends at a segment")
        if text.startswith("*"):
            raise CannotSay("a pattern of callers begins with its trust domain")
        return Meaning((SpiffePattern.parse(f"spiffe://{text}"),))
    except SpiffeIdError as err:
        raise CannotSay(f"it is no SPIFFE ID: {err}") from None


def namespace(reading: Reading, value: str, widens: bool) -> Meaning[SpiffePattern]:  # noqa: FBT001  one shape for all
    """A namespace; of other trust domains too, which Limen must name."""
    if value == "*":
        return Meaning(None)
    if "*" in value:
        raise CannotSay("a namespace is named whole")
    return Meaning(_in_every_domain(reading, f"ns/{value}/**", widens), "" if widens else _assume_local(reading, value))


def account(reading: Reading, value: str, widens: bool) -> Meaning[SpiffePattern]:  # noqa: FBT001  one shape for all
    """A service account `NS/SA`, or `SA` in the policy's own namespace."""
    first, slash, rest = value.partition("/")
    path = f"ns/{first}/sa/{rest}" if slash else f"ns/{reading.namespace}/sa/{first}"
    return Meaning(_in_every_domain(reading, path, widens), "" if widens else _assume_local(reading, value))


def trust_domain(reading: Reading, value: str, widens: bool) -> Meaning[SpiffePattern]:  # noqa: ARG001, FBT001
    """A trust domain."""
    if value == "*":
        return Meaning(None)
    try:
        return Meaning((SpiffePattern.parse(f"spiffe://{value}/**"),))
    except SpiffeIdError as err:
        raise CannotSay(f"it is no trust domain: {err}") from None


def _assume_local(reading: Reading, value: str) -> str:
    reading.document.note(ASSUMED, f"`{value}` of `{reading.domain}`", "other trust domains are allowed by name alone")
    return ""


def _in_every_domain(reading: Reading, path: str, widens: bool) -> tuple[SpiffePattern, ...]:  # noqa: FBT001
    """A path of the local trust domain; what may widen holds foreign trust domains as well (see `istiorule`)."""
    del widens
    try:
        return (SpiffePattern.parse(f"spiffe://{reading.domain}/{path}"),)
    except SpiffeIdError as err:
        raise CannotSay(f"it is no SPIFFE ID: {err}") from None


def method(reading: Reading, value: str, widens: bool) -> Meaning[str]:  # noqa: ARG001, FBT001  one shape for all
    """An HTTP method."""
    if value == "*":
        return Meaning(None)
    if METHOD.fullmatch(value) is None:
        raise CannotSay("a method is a word in upper case")
    return Meaning((value,))


def host(reading: Reading, value: str, widens: bool) -> Meaning[HostPattern]:  # noqa: ARG001, FBT001  one shape for all
    """A host, in Limen's canonical form without its port; a suffix is one label there and any number with Istio."""
    if value == "*":
        return Meaning(None)
    name, colon, port = value.lower().rpartition(":")
    text = name if colon and (port == "*" or port.isdigit()) and not name.endswith(":") else value.lower()
    try:
        if text.startswith("*.") and "*" not in text[2:]:
            if widens:
                raise CannotSay("`*.` stands for any number of labels with Istio, for one with Limen")
            return Meaning((HostPattern.parse(text),), "`*.` stands for one label")
        if "*" in text:
            raise CannotSay("a host is whole, or begins with `*.`")
        return Meaning((HostPattern.parse(text),))
    except PatternError as err:
        raise CannotSay(str(err)) from None


def path(reading: Reading, value: str, widens: bool) -> Meaning[PathPattern]:  # noqa: ARG001, FBT001  one shape for all
    """A path: exact, a prefix, a template with `{*}` and `{**}`."""
    if value in {"*", "/*"}:
        return Meaning(None)
    try:
        if "{" in value:
            return _template(value, widens)
        if value.endswith("*") and "*" not in value[:-1]:
            stem = value[:-1]
            if stem.endswith("/"):
                return Meaning((PathPattern.parse(f"{_escaped(stem)}**"),))
            if widens:
                parent = stem.rpartition("/")[0]
                return Meaning(
                    (PathPattern.parse(f"{_escaped(parent)}/**"),), "a prefix inside a segment is all below it"
                )
            patterns = (PathPattern.parse(_escaped(stem)), PathPattern.parse(f"{_escaped(stem)}/**"))
            return Meaning(patterns, "a prefix ends at a segment: what goes on inside the last one is not held")
        if "*" in value:
            raise CannotSay("a path holds no `*` but at its end")
        return Meaning((PathPattern.parse(_escaped(value)),))
    except PatternError as err:
        raise CannotSay(str(err)) from None


def _escaped(text: str) -> str:
    if "?" in text or "#" in text or ";" in text:
        raise CannotSay("a path has no query, fragment or parameters")
    return text


def _template(value: str, widens: bool) -> Meaning[PathPattern]:  # noqa: FBT001
    words = value.split("/")
    if "{**}" in words[:-1]:
        if not widens:
            raise CannotSay("`{**}` stands at the end")
        stem = "/".join(words[: words.index("{**}")])
        return Meaning(_template(f"{stem}/{{**}}", widens).patterns, "`{**}` is everything below it")
    is_subtree = words[-1] == "{**}"
    names = iter(f"{{x{place}}}" for place in range(len(words)))
    text = "/".join(next(names) if word == "{*}" else word for word in (words[:-1] if is_subtree else words))
    return Meaning((PathPattern.parse(f"{text}/**" if is_subtree else text),))


def block(reading: Reading, value: str, widens: bool) -> Meaning[Network]:  # noqa: ARG001, FBT001  one shape for all
    """An address or a range; host bits are not part of a range."""
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise CannotSay("it is no address range") from None
    if network.version == 6 and network.overlaps(_MAPPED):
        raise CannotSay("IPv4 addresses are written as IPv4")
    return Meaning((network,))


def header_value(reading: Reading, value: str, widens: bool) -> Meaning[str]:  # noqa: ARG001, FBT001  one shape for all
    """The value of a header."""
    if "*" in (value[:1], value[-1:]):
        raise CannotSay("a header has one of several values: a part of one is none")
    if _HEADER_VALUE.fullmatch(value) is None:
        raise CannotSay("a value of a header is printable ASCII without a comma")
    return Meaning((value,))
