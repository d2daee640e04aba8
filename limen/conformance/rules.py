"""The statements that can be seen from outside, each as one check: its id, its level, its words, and how to see it.

Ids and levels are those of `tests/conformance/statements.py`; a MUST that fails is a failure, a SHOULD is told. A
statement about something that the server did not give is not applicable. Documents are looked at in `certificates`
and `tokens`; what the endpoint and its methods do, here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from limen.conformance import certificates, tokens
from limen.conformance.certificates import is_domain, is_workload
from limen.conformance.probe import (
    HEADER,
    REFLECTION,
    SERVICE,
    WIT_METHODS,
    WITHIN_S,
    Evidence,
    Outcome,
    Probe,
    names_of,
)
from limen.conformance.row import Result, Row, row
from limen.conformance.tokens import AUDIENCE
from mesh.proto import workload_pb2 as pb

__all__ = ["Result", "Row", "run"]
_HEADERS = (
    ("missing", ()),
    ("True", (("workload.spiffe.io", "True"),)),
    ("1", (("workload.spiffe.io", "1"),)),
    ("twice", (*HEADER, *HEADER)),
)
_REQUESTS = (
    ("FetchX509SVID", pb.X509SVIDRequest()),
    ("FetchX509Bundles", pb.X509BundlesRequest()),
    ("FetchJWTSVID", pb.JWTSVIDRequest(audience=[AUDIENCE])),
    ("FetchJWTBundles", pb.JWTBundlesRequest()),
    ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="a", svid="b")),
)


def run(probe: Probe, found: Evidence, now: dt.datetime) -> list[Row]:
    """Check every statement."""
    given = found.jwt.message.svids if found.jwt.message is not None else ()
    bundles = dict(found.jwt_bundles.message.bundles) if found.jwt_bundles.message is not None else {}
    rows = [
        *_endpoint(probe, found),
        *_header(probe),
        *_extensions(probe, found),
        *_streams(found),
        *_bundles(found),
        *_jwt_api(probe, found),
        *certificates.rows(found.x509.message.svids if found.x509.message is not None else (), now),
        *tokens.rows(given, bundles, now),
    ]
    return sorted(rows, key=lambda item: item.order)


def _endpoint(probe: Probe, found: Evidence) -> Iterator[Row]:
    reached = found.x509.code not in {"UNAVAILABLE", "DEADLINE_EXCEEDED"} or found.x509_bundles.code == "OK"
    yield row("E-1", "M", "the API is served over gRPC", reached, found.x509.code)
    yield row("E-2", "S", "it is a Unix socket", probe.target.startswith("unix:"), probe.target)
    yield row("E-5", "M", "TLS is not required", reached, found.x509.code)
    asked = {item.code for item in found.outcomes}
    yield row("E-6", "M", "no credential of the client is asked for", "UNAUTHENTICATED" not in asked, found.x509.code)
    unknown = probe.raw(SERVICE + "FetchNothing").code
    yield row("E-12", "M", "an unknown method is Unimplemented", unknown == "UNIMPLEMENTED", unknown)
    profiles = {"X.509": found.x509.code, "JWT": found.jwt.code, "JWT bundles": found.jwt_bundles.code}
    served = "UNIMPLEMENTED" not in profiles.values()
    yield row("E-14", "M", "the Workload API is exposed", served, profiles)
    shown = probe.raw(REFLECTION).code
    yield row("E-14", "S", "reflection is served", shown != "UNIMPLEMENTED", shown)
    wit = {name: probe.raw(SERVICE + name).code for name in WIT_METHODS}
    at_once = len({code == "UNIMPLEMENTED" for code in wit.values()}) == 1
    yield row("W-1", "M", "X.509 and JWT are served; of WIT all or nothing", served and at_once, {**profiles, **wit})


def _header(probe: Probe) -> Iterator[Row]:
    codes = {
        f"{name} {label}": probe.call(name, request, metadata).code
        for label, metadata in _HEADERS
        for name, request in _REQUESTS
    }
    served = {label: code for label, code in codes.items() if code == "OK"}
    yield row("E-3", "M", "`workload.spiffe.io: true` is demanded, exactly", not served, served or "all refused")
    other = {label: code for label, code in codes.items() if code != "INVALID_ARGUMENT"}
    yield row("E-4", "M", "a request without it is InvalidArgument", not other, other or "all of them")
    shown = probe.raw(REFLECTION, ()).code
    # a service that is not there is not one of the endpoint's
    good = None if shown == "UNIMPLEMENTED" else shown == "INVALID_ARGUMENT"
    yield row("E-4", "M", "so is reflection without it", good, shown)


def _extensions(probe: Probe, found: Evidence) -> Iterator[Row]:
    messages = [item.message for item in found.outcomes if item.message is not None]
    unknown = sorted({name for message in messages for name in _unknown(message)})
    yield row(
        "W-2", "M", "messages have the standard's fields and no other", not unknown if messages else None, unknown
    )
    methods = probe.methods()
    other = None if methods is None else sorted(methods - {name for name, _ in _REQUESTS} - set(WIT_METHODS))
    yield row(
        "E-13", "M", "the service has the standard's methods and no other", None if other is None else not other, other
    )


def _unknown(message: Message) -> Iterator[str]:
    """The fields of a message, and of those in it, that the standard does not have."""
    for field in UnknownFieldSet(message):  # type: ignore[attr-defined]  # it is a sequence, and its stub says nothing
        yield f"{message.DESCRIPTOR.name}.{field.field_number}"
    for field, value in message.ListFields():
        if field.message_type is not None and field.is_repeated and not field.message_type.GetOptions().map_entry:
            for item in value:
                yield from _unknown(item)


def _streams(found: Evidence) -> Iterator[Row]:
    streams = {"SVIDs": found.x509, "bundles": found.x509_bundles, "JWT bundles": found.jwt_bundles}
    given = {name: item for name, item in streams.items() if item.message is not None}
    yield row(
        "W-4",
        "M",
        "a stream sends at once and stays open",
        all(item.is_open and item.seconds < WITHIN_S for item in given.values()) if given else None,
        {name: f"{item.seconds * 1000:.0f} ms, {'open' if item.is_open else 'ended'}" for name, item in given.items()},
    )
    message = found.x509.message
    svids = message.svids if message is not None else ()
    denied = found.x509.code if message is None else ""
    yield row("W-7", "M", "there is at least one SVID", bool(svids) if not denied else None, denied or len(svids))
    yield row("W-12", "S", "no identity is PermissionDenied", denied == "PERMISSION_DENIED" if denied else None, denied)
    hints = [item.hint for item in svids if item.hint]
    yield row("W-11", "M", "a hint stands once in a response", len(set(hints)) == len(hints) if svids else None, hints)
    again = found.again.message
    both = [names_of(item.svids) for item in (message, again) if item is not None]
    yield row("W-11", "S", "the order of identities is kept", both[0] == both[1] if len(both) == 2 else None, both[-1:])
    other = sorted(message.federated_bundles) if message is not None else []
    yield row("W-10", "M", "foreign bundles go by SPIFFE ID", all(map(is_domain, other)) if other else None, other)


def _bundles(found: Evidence) -> Iterator[Row]:
    own = {f"spiffe://{certificates.domain_of(item)}" for item in _svids(found) if is_workload(item.spiffe_id)}
    for outcome, kind in ((found.x509_bundles, "X.509"), (found.jwt_bundles, "JWT")):
        keys = set(outcome.message.bundles) if outcome.message is not None else None
        seen = sorted(keys or ()) or outcome.code
        good = None if keys is None or not own else own <= keys
        yield row("W-13", "M", f"the {kind} bundles hold the own trust domain, by its SPIFFE ID", good, seen)


def _svids(found: Evidence) -> list[pb.X509SVID | pb.JWTSVID]:
    return [
        item for outcome in (found.x509, found.jwt) if outcome.message is not None for item in outcome.message.svids
    ]


def _jwt_api(probe: Probe, found: Evidence) -> Iterator[Row]:
    empty = probe.call("FetchJWTSVID", pb.JWTSVIDRequest()).code
    yield row("W-6", "S", "an empty audience is InvalidArgument", empty == "INVALID_ARGUMENT", empty)
    blank = probe.call("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience=AUDIENCE)).code
    yield row("W-6", "S", "an empty token is InvalidArgument", blank == "INVALID_ARGUMENT", blank)
    given = found.jwt.message.svids if found.jwt.message is not None else ()
    held = found.x509.message.svids if found.x509.message is not None else ()
    if given and held:
        names, tokens_of = names_of(held), names_of(given)
        yield row("W-16", "M", "without a name there is a token for every identity", names == tokens_of, tokens_of)
    if not given or not tokens.is_compact(given[0].svid):
        return
    name, token = str(given[0].spiffe_id), str(given[0].svid)
    single = probe.call("FetchJWTSVID", pb.JWTSVIDRequest(audience=[AUDIENCE], spiffe_id=name))
    got = names_of(single.message.svids) if single.message is not None else single.code
    yield row("W-16", "M", "a named identity alone is given", got == [name], got)
    other = probe.call("FetchJWTSVID", pb.JWTSVIDRequest(audience=[AUDIENCE], spiffe_id=f"{name}-not-mine")).code
    yield row("W-16", "S", "an identity of somebody else is PermissionDenied", other == "PERMISSION_DENIED", other)
    yield from _validation(probe, name, token)


def _validation(probe: Probe, name: str, token: str) -> Iterator[Row]:
    def validate(audience: str, svid: str) -> Outcome:
        return probe.call("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience=audience, svid=svid))

    good = validate(AUDIENCE, token)
    said = None if good.message is None else good.message.spiffe_id
    yield row("W-17", "M", "a token that is good is validated", said == name, said or good.code)
    claims = set() if good.message is None else set(good.message.claims.fields)
    yield row(
        "W-17", "S", "its claims are given, with sub, aud and exp", {"sub", "aud", "exp"} <= claims, sorted(claims)
    )
    other = validate(f"{AUDIENCE}-other", token).code
    yield row("J-12", "M", "a token for somebody else is refused", other != "OK", other)
    for bad, (statement, words) in tokens.spoilt(token).items():
        code = validate(AUDIENCE, bad).code
        yield row(statement, "M", f"a token with {words} is refused", code != "OK", code)
