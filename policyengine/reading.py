"""The strict reader: plain JSON-like values in, model values and all findings out.

The YAML loader and the reader of snapshots share it, so that both refuse the same things: unknown fields, missing
fields, wrong types, empty lists and empty mappings. A finding names the place by a path of keys; the loader turns
the path into a line and a column. What needs more than one object (names, ports, identities) is in
`policyengine.consistency`. The module is over 400 lines long because it is one list of kinds and fields.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import ipaddress
import json
import re
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, cast

from mesh.clock import parse_time
from mesh.problems import shortened
from mesh.request import Effect, Mode, Protocol
from mesh.spiffe import SpiffePattern
from policyengine import model
from policyengine.canonical import HostPattern, PathCase, PathPattern
from policyengine.lookalikes import hidden_character, mixed_word
from policyengine.regocheck import is_rule_path

T = TypeVar("T")
Path = tuple[str | int, ...]

MISSING = object()
"""Stands for a required field that is not there and has been refused."""

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
RULE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}")
METHOD = re.compile(r"[A-Z0-9._-]+")  # of the characters of a token those that methods are made of
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_HEADER_VALUE = re.compile(r"[\x21-\x2b\x2d-\x7e](?:[\x20-\x2b\x2d-\x7e]*[\x21-\x2b\x2d-\x7e])?")
_MAX_HINTED, _MAX_HINTS = 64, 500
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_TIME_OF_DAY = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9])?")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule: where (a path of keys), which code, with which facts."""

    path: Path
    code: str
    facts: Mapping[str, object]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a name that nothing defines: `; did you mean x?`, or nothing.

    Comparing costs the product of both, so that very long names and very many of them get none.
    """
    known = list(known)
    if len(name) > _MAX_HINTED or len(known) > _MAX_HINTS:
        return ""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


class Reader:
    """Collects findings while it reads one object."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.positions: dict[str, list[int]] = {}
        """By policy, where each rule that was kept stood in its list."""
        self.known: tuple[model.Rule, ...] | None = None
        """The rules of the policy that is read next, where whoever asks has read them before and found nothing."""

    def refuse(self, path: Path, code: str, **facts: object) -> None:
        """Note that what stands at a path breaks a rule."""
        short = {name: shortened(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
        self.findings.append(Finding(path, code, short))

    def mapping(
        self, value: object, path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> Mapping[str, object] | None:
        """A mapping with known fields only; None when it is no mapping.

        A required field that is not there is refused here and stands as MISSING, which every reader takes in silence.
        """
        if value is MISSING:
            return None
        if not isinstance(value, Mapping):
            self.refuse(path, "LM2004", field=_name(path), expected="a mapping")
            return None
        known = required + optional
        for key in value:
            if key not in known:
                self.refuse(
                    (*path, key), "LM2002", field=key, owner=_name(path), hint=did_you_mean(str(key), known),
                    known=", ".join(known),
                )  # fmt: skip
        missing = [name for name in required if name not in value]
        for name in missing:
            self.refuse(path, "LM2003", field=name, owner=_name(path))
        return {**dict.fromkeys(missing, MISSING), **value}

    def items(self, value: object, path: Path, read: Callable[[object, Path], T | None]) -> tuple[T, ...] | None:
        """A list that is not empty, each item read; None when the list or one item is refused."""
        if value is MISSING:
            return None
        if not isinstance(value, list):
            self.refuse(path, "LM2004", field=_name(path), expected="a list")
            return None
        if not value:
            self.refuse(path, "LM2005", field=_name(path))
            return None
        found = [read(item, (*path, place)) for place, item in enumerate(value)]
        kept = tuple(item for item in found if item is not None)
        return kept if len(kept) == len(found) else None

    def text(self, value: object, path: Path) -> str | None:
        """A text that is compared with others: all of it shows, and no word mixes scripts whose letters look alike.

        The characters of a file are looked at before (LM5101); an escape, and the JSON of a proposal, come this far.
        """
        if isinstance(value, str) and value.isascii() and value.isprintable():
            return value  # nearly every text: nothing hides in it, and it has one script
        text = self.prose(value, path)
        hidden = hidden_character(text) if text is not None else None
        if hidden is not None:
            self.refuse(path, "LM2053", field=_name(path), character=f"U+{ord(hidden):04X}")
            return None
        word = mixed_word(text) if text is not None else None
        if word is not None:
            self.refuse(path, "LM2052", field=_name(path), value=word)
            return None
        return text

    def prose(self, value: object, path: Path) -> str | None:
        """A text that is only shown, or carried as it is."""
        if isinstance(value, str):
            return value
        if value is MISSING:
            return None
        self.refuse(path, "LM2004", field=_name(path), expected="text")
        return None

    def flag(self, value: object, path: Path) -> bool:
        """True or false."""
        if isinstance(value, bool):
            return value
        self.refuse(path, "LM2004", field=_name(path), expected="true or false")
        return False

    def name(self, value: object, path: Path, shape: re.Pattern[str] = NAME) -> str | None:
        """A name: letters, digits and a few marks."""
        text = self.text(value, path)
        if text is not None and shape.fullmatch(text) is None:
            self.refuse(path, "LM2020", field=_name(path), value=text)
            return None
        return text

    def choice(self, value: object, path: Path, known: Iterable[str]) -> str | None:
        """One of a closed set of words."""
        words = tuple(known)
        if isinstance(value, str) and value in words:
            return value
        if value is MISSING:
            return None
        hint = did_you_mean(value, words) if isinstance(value, str) else ""
        self.refuse(path, "LM2009", field=_name(path), value=value, known=", ".join(words), hint=hint)
        return None

    def port(self, value: object, path: Path) -> int | None:
        """A port number."""
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
            return value
        if value is MISSING:
            return None
        self.refuse(path, "LM2010", value=value)
        return None

    def moment(self, value: object, path: Path) -> dt.datetime | None:
        """An RFC 3339 timestamp."""
        text = self.text(value, path)
        if text is None:
            return None
        try:
            return parse_time(text)
        except ValueError:
            self.refuse(path, "LM2016", field=_name(path), value=text)
            return None

    def parsed(self, value: object, path: Path, parse: Callable[[str], T], code: str) -> T | None:
        """A text that a parser accepts; its ValueError states the rule."""
        text = self.text(value, path)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as err:
            self.refuse(path, code, value=text, reason=str(err))
            return None

    # ------------------------------------------------------------------ the parts that several kinds share

    def principals(self, value: object, path: Path) -> tuple[model.Principal, ...] | None:
        """A list of principals, as in `from`."""
        return self.items(value, path, self.principal)

    def principal(self, value: object, path: Path) -> model.Principal | None:
        """One principal; the group or service that it names has a name."""
        found = self.parsed(value, path, model.Principal.parse, "LM2006")
        if found is not None and found.kind in {"group", "service"} and NAME.fullmatch(found.name) is None:
            self.refuse(path, "LM2020", field=found.kind, value=found.name)
            return None
        return found

    def operations(self, value: object, path: Path) -> tuple[model.Operation, ...] | None:
        """The list `to`."""
        return self.items(value, path, self.operation)

    def operation(self, value: object, path: Path) -> model.Operation | None:
        """One entry of `to`."""
        names = ("ports", "methods", "hosts", "paths")
        fields = self.filled(value, path, names)
        if fields is None:
            return None
        before = len(self.findings)
        readers: dict[str, Callable[[object, Path], object]] = {
            "ports": self.port,
            "methods": self.method,
            "hosts": lambda item, at: self.parsed(item, at, HostPattern.parse, "LM2008"),
            "paths": lambda item, at: self.parsed(item, at, PathPattern.parse, "LM2007"),
        }
        found = {name: self.items(fields[name], (*path, name), readers[name]) for name in names if name in fields}
        if len(self.findings) > before:
            return None
        return model.Operation(**found)  # type: ignore[arg-type]  # each reader returns its field's type

    def filled(self, value: object, path: Path, optional: tuple[str, ...]) -> Mapping[str, object] | None:
        """A mapping of optional fields of which at least one is there."""
        fields = self.mapping(value, path, (), optional)
        if fields is not None and not fields:
            self.refuse(path, "LM2019", field=_name(path), known=", ".join(optional))
        return fields if fields is not None and any(name in fields for name in optional) else None

    def method(self, value: object, path: Path) -> str | None:
        """An HTTP method in upper case, compared exactly. Tokens such as `*` and `GET|PUT` would be taken for more."""
        text = self.text(value, path)
        if text is not None and METHOD.fullmatch(text) is None:
            self.refuse(path, "LM2017", value=text)
            return None
        return text

    def conditions(self, value: object, path: Path) -> model.Conditions | None:
        """The mapping `when`."""
        names = ("claims", "headers", "peer_ip", "forwarded_ip", "hours", "rego")
        fields = self.filled(value, path, names)
        if fields is None:
            return None
        before = len(self.findings)
        readers: dict[str, Callable[[object, Path], object]] = {
            "claims": self.claims,
            "headers": self.headers,
            "peer_ip": self.networks,
            "forwarded_ip": self.networks,
            "hours": self.hours,
            "rego": self.rule_path,
        }
        found = {name: readers[name](fields[name], (*path, name)) for name in names if name in fields}
        if len(self.findings) > before:
            return None
        return model.Conditions(**found)  # type: ignore[arg-type]  # each reader returns its field's type

    def rule_path(self, value: object, path: Path) -> str | None:
        """The name of a custom rule: `data.package.rule`."""
        text = self.text(value, path)
        if text is not None and not is_rule_path(text):
            self.refuse(path, "LM2601", value=text)
            return None
        return text

    def claims(self, value: object, path: Path) -> model.ClaimsCondition | None:
        """`claims`: an issuer, and the values of named claims."""
        if not isinstance(value, Mapping):
            self.refuse(path, "LM2004", field="claims", expected="a mapping")
            return None
        if "issuer" not in value:
            self.refuse(path, "LM2003", field="issuer", owner="claims")
            return None
        issuer = self.text(value["issuer"], (*path, "issuer"))
        names = [name for name in value if name != "issuer"]
        found: list[tuple[str, tuple[model.ClaimValue, ...]]] = []
        for name in sorted(names, key=str):
            self.text(name, (*path, name))
            allowed: tuple[model.ClaimValue, ...] | None = self.items(value[name], (*path, name), self.claim_value)
            if allowed is not None:
                found.append((str(name), allowed))
        if issuer is None or len(found) < len(names):
            return None
        return model.ClaimsCondition(issuer=issuer, values=tuple(found))

    def claim_value(self, value: object, path: Path) -> str | int | None:
        """A value that a claim may have."""
        if isinstance(value, str):
            return self.text(value, path)
        if isinstance(value, int):  # a bool is an int to Python, and stays a bool
            return value
        self.refuse(path, "LM2004", field=_name(path), expected="text, a whole number, true or false")
        return None

    def headers(self, value: object, path: Path) -> tuple[tuple[str, tuple[str, ...]], ...] | None:
        """`headers`: names, lower case, and the values that each may have."""
        if not isinstance(value, Mapping) or not value:
            code = "LM2019" if isinstance(value, Mapping) else "LM2004"
            self.refuse(path, code, field="headers", expected="a mapping", known="header names")
            return None
        found = [(str(name).lower(), self.items(value[name], (*path, name), self.header_value)) for name in value]
        names = [name for name, _ in found]
        for name in names:
            if TOKEN.fullmatch(name) is None or name == "host" or names.count(name) > 1:
                self.refuse(path, "LM2015", value=name)
                return None
        kept = tuple((name, allowed) for name, allowed in sorted(found) if allowed is not None)
        return kept if len(kept) == len(found) else None

    def header_value(self, value: object, path: Path) -> str | None:
        """A header value: printable ASCII, no comma, no outer white space."""
        text = self.text(value, path)
        if text is not None and _HEADER_VALUE.fullmatch(text) is None:
            self.refuse(path, "LM2021", value=text)
            return None
        return text

    def networks(self, value: object, path: Path) -> tuple[model.Network, ...] | None:
        """A list of address ranges."""
        return self.items(value, path, lambda item, at: self.parsed(item, at, _network, "LM2013"))

    def hours(self, value: object, path: Path) -> model.Hours | None:
        """`hours`: a zone and a window."""
        fields = self.mapping(value, path, ("tz", "from", "to"))
        if fields is None:
            return None
        zone = self.parsed(fields["tz"], (*path, "tz"), _zone, "LM2014")
        start = self.parsed(fields["from"], (*path, "from"), _time_of_day, "LM2014")
        end = self.parsed(fields["to"], (*path, "to"), _time_of_day, "LM2014")
        if zone is None or start is None or end is None:
            return None
        if start == end:
            self.refuse((*path, "to"), "LM2014", value=fields["to"], reason="`from` and `to` differ")
            return None
        return model.Hours(tz=zone, start=start, end=end)

    def unless(self, value: object, path: Path) -> model.Unless | None:
        """The mapping `unless`."""
        fields = self.filled(value, path, ("from", "when"))
        if fields is None:
            return None
        before = len(self.findings)
        callers = self.principals(fields["from"], (*path, "from")) if "from" in fields else None
        when = self.conditions(fields["when"], (*path, "when")) if "when" in fields else None
        return None if len(self.findings) > before else model.Unless(from_=callers, when=when)

    # ------------------------------------------------------------------ rules and the five kinds

    def rule(self, value: object, path: Path) -> model.Rule | None:
        """One rule of a policy."""
        fields = self.mapping(value, path, ("id", "effect", "from"), ("to", "when", "unless", "evidence"))
        if fields is None:
            return None
        before = len(self.findings)
        identifier = self.name(fields["id"], (*path, "id"), RULE_ID)
        effect = self.choice(fields["effect"], (*path, "effect"), tuple(Effect))
        callers = self.principals(fields["from"], (*path, "from"))
        to = self.operations(fields["to"], (*path, "to")) if "to" in fields else None
        when = self.conditions(fields["when"], (*path, "when")) if "when" in fields else None
        unless = self.unless(fields["unless"], (*path, "unless")) if "unless" in fields else None
        evidence = self.evidence(fields["evidence"], (*path, "evidence")) if "evidence" in fields else None
        if len(self.findings) > before or identifier is None or effect is None or callers is None:
            return None
        return model.Rule(
            id=identifier, effect=Effect(effect), from_=callers, to=to, when=when, unless=unless, evidence=evidence
        )

    def evidence(self, value: object, path: Path) -> str | None:
        """The learner's object, as canonical JSON text."""
        if not isinstance(value, Mapping):
            self.refuse(path, "LM2004", field="evidence", expected="a mapping")
            return None
        try:
            return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):
            self.refuse(path, "LM2004", field="evidence", expected="a mapping of plain values")
            return None

    def service(self, name: str, owner: str, value: object, path: Path) -> model.Service | None:
        """The spec of a Service."""
        optional = ("mode", "until", "learn", "dataplane", "path_case")
        fields = self.mapping(value, path, ("identities", "ports"), optional)
        if fields is None:
            return None
        before = len(self.findings)
        identities = self.items(
            fields["identities"],
            (*path, "identities"),
            lambda item, at: self.parsed(item, at, SpiffePattern.parse, "LM2012"),
        )
        ports = self.items(fields["ports"], (*path, "ports"), self.service_port)
        mode = self.choice(fields.get("mode", "enforce"), (*path, "mode"), tuple(Mode))
        until = self.moment(fields["until"], (*path, "until")) if "until" in fields else None
        learn = self.flag(fields.get("learn", False), (*path, "learn"))
        planes = ("auto", "native", "envoy")
        plane = self.choice(fields.get("dataplane", "auto"), (*path, "dataplane"), planes)
        case = self.choice(fields.get("path_case", "sensitive"), (*path, "path_case"), ("sensitive", "insensitive"))
        if mode is not None and (mode == "observe") != ("until" in fields):
            self.refuse((*path, "mode") if mode == "observe" else (*path, "until"), "LM2018", service=name)
        for place, port in enumerate(ports or ()):
            if any(port.port == earlier.port for earlier in (ports or ())[:place]):
                self.refuse((*path, "ports", place), "LM2011", port=port.port)
        if len(self.findings) > before or identities is None or ports is None or mode is None:
            return None
        return model.Service(
            name=name, owner=owner, identities=identities, ports=ports, mode=Mode(mode), until=until, learn=learn,
            dataplane=cast("model.DataPlane", plane), path_case=cast("PathCase", case),  # checked by choice
        )  # fmt: skip

    def service_port(self, value: object, path: Path) -> model.Port | None:
        """One port of a service."""
        fields = self.mapping(value, path, ("port", "protocol"), ("websocket",))
        if fields is None:
            return None
        port = self.port(fields["port"], (*path, "port"))
        if fields["protocol"] == "udp":
            self.refuse((*path, "protocol"), "LM2041", port=port)
            return None
        protocol = self.choice(fields["protocol"], (*path, "protocol"), model.PROTOCOLS)
        websocket = self.flag(fields.get("websocket", False), (*path, "websocket"))
        if websocket and protocol not in {None, "http"}:
            self.refuse((*path, "websocket"), "LM2042", port=port, protocol=protocol)
        if port is None or protocol is None:
            return None
        return model.Port(port=port, protocol=cast("Protocol", protocol), websocket=websocket)  # checked by choice

    def policy(self, name: str, owner: str, value: object, path: Path) -> model.Policy | None:
        """The spec of a Policy."""
        fields = self.mapping(value, path, ("service", "tier", "rules"))
        if fields is None:
            return None
        service = self.name(fields["service"], (*path, "service"))
        tier = self.choice(fields["tier"], (*path, "tier"), model.TIERS)
        rules = self.rules(fields["rules"], (*path, "rules"), name)
        if service is None or tier is None or not rules:
            return None
        return model.Policy(name=name, owner=owner, service=service, tier=cast("model.Tier", tier), rules=rules)

    def rules(self, value: object, path: Path, policy: str) -> tuple[model.Rule, ...]:
        """The rules of a policy that can be read; what cannot is among the findings.

        The others are kept so that all their findings come at once; a set with findings is never used.
        """
        if not isinstance(value, list) or not value:
            self.items(value, path, self.rule)  # refuses it
            return ()
        if self.known is not None and len({rule.id for rule in self.known}) == len(value):
            self.positions[policy] = list(range(len(value)))
            return self.known
        kept: list[model.Rule] = []
        seen: set[str] = set()
        self.positions[policy] = []
        for place, item in enumerate(value):
            rule = self.rule(item, (*path, place))
            if rule is None:
                continue
            if rule.id in seen:
                self.refuse((*path, place, "id"), "LM2031", rule=rule.id, policy=policy)
            seen.add(rule.id)
            kept.append(rule)
            self.positions[policy].append(place)
        return tuple(kept)

    def group(self, name: str, owner: str, value: object, path: Path) -> model.Group | None:
        """The spec of a Group."""
        fields = self.mapping(value, path, ("members",))
        members = self.principals(fields["members"], (*path, "members")) if fields is not None else None
        return None if members is None else model.Group(name=name, owner=owner, members=members)

    def grant(
        self, value: object, path: Path
    ) -> tuple[str, tuple[model.Principal, ...], tuple[model.Operation, ...] | None] | None:
        """Service, callers and operations, as invariants and exceptions name them."""
        fields = self.mapping(value, path, ("from", "service"), ("to",))
        if fields is None:
            return None
        before = len(self.findings)
        callers = self.principals(fields["from"], (*path, "from"))
        service = self.name(fields["service"], (*path, "service"))
        to = self.operations(fields["to"], (*path, "to")) if "to" in fields else None
        if len(self.findings) > before or callers is None or service is None:
            return None
        return service, callers, to

    def modules(self, value: object, path: Path) -> tuple[model.RegoModule, ...]:
        """The modules of custom rules, as a snapshot carries them."""
        return self.items(value, path, self.module) or ()

    def module(self, value: object, path: Path) -> model.RegoModule | None:
        """One module: its path and its text."""
        fields = self.mapping(value, path, ("path", "source"))
        if fields is None:
            return None
        name = self.text(fields["path"], (*path, "path"))
        source = self.prose(fields["source"], (*path, "source"))
        return None if name is None or source is None else model.RegoModule(name, source)

    def invariant(self, name: str, owner: str, value: object, path: Path) -> model.Invariant | None:
        """The spec of an Invariant."""
        fields = self.mapping(value, path, ("forbid",))
        found = self.grant(fields["forbid"], (*path, "forbid")) if fields is not None else None
        if found is None:
            return None
        service, callers, to = found
        return model.Invariant(name=name, owner=owner, service=service, from_=callers, to=to)

    def exception(self, name: str, owner: str, value: object, path: Path) -> model.ExceptionGrant | None:
        """The spec of an Exception."""
        fields = self.mapping(value, path, ("rule", "until", "reason"))
        if fields is None:
            return None
        found = self.grant(fields["rule"], (*path, "rule"))
        until = self.moment(fields["until"], (*path, "until"))
        reason = self.prose(fields["reason"], (*path, "reason"))
        if found is None or until is None or reason is None:
            return None
        service, callers, to = found
        return model.ExceptionGrant(
            name=name, owner=owner, service=service, from_=callers, to=to, until=until, reason=reason
        )


def _name(path: Path) -> str:
    """The name of the field a path ends in, for a message."""
    names = [part for part in path if isinstance(part, str)]
    return names[-1] if names else "document"


def _network(text: str) -> model.Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("an address range is an address or CIDR block without host bits") from None
    if network.version == 6 and network.overlaps(_MAPPED):
        # requests are compared by the IPv4 address inside, so such a range would quietly match nothing
        raise ValueError("IPv4 addresses are written as IPv4")
    return network


def _zone(text: str) -> str:
    try:
        zoneinfo.ZoneInfo(text)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise ValueError("a time zone is a name of the IANA database") from None
    return text


def _time_of_day(text: str) -> dt.time:
    if _TIME_OF_DAY.fullmatch(text) is None:
        raise ValueError("a time of day is HH:MM or HH:MM:SS, from 00:00 to 23:59:59")
    return dt.time.fromisoformat(text)
