"""The statements that can be seen from outside, each as one check: its id, its level, its words, and how to see it.

Ids, levels and wording follow the SPIFFE standards' own numbering in this project (docs/guides/conformance.md); a MUST
that fails is a failure, a SHOULD is told. A statement about something that the server did not give is not applicable.
Longer than most: it is a list.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from limen.conformance.probe import AUDIENCE, HEADER, SERVICE, WITHIN_S, Evidence, Outcome, Probe, names_of
from mesh.bundle import TrustBundle
from mesh.clock import Clock
from mesh.problems import Problem
from mesh.proto import workload_pb2 as pb
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain
from mesh.x509svid import split_chain, verify_x509_svid

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
ALGORITHMS = {f"{kind}{size}" for kind in ("RS", "ES", "PS") for size in (256, 384, 512)}
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
WIT_METHODS = ("FetchWITSVID", "FetchWITBundles")


class Result(enum.StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105  a result
    FAIL = "fail"
    NOT_APPLICABLE = "n/a"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One statement with its result. ``level`` is M (MUST) or S (SHOULD)."""

    id: str
    level: str
    statement: str
    result: Result
    seen: str


def run(probe: Probe, evidence: Evidence, clock: Clock) -> list[Row]:
    """Check every statement."""
    rows = [
        *_endpoint(probe, evidence),
        *_x509_api(evidence),
        *_jwt_api(probe, evidence),
        *_documents(evidence, clock),
    ]
    return sorted(rows, key=lambda row: (row.id.partition("-")[0], int(row.id.partition("-")[2])))


def _row(name: str, level: str, statement: str, good: bool | None, seen: object = "") -> Row:  # noqa: FBT001
    result = Result.NOT_APPLICABLE if good is None else Result.PASS if good else Result.FAIL
    return Row(id=name, level=level, statement=statement, result=result, seen=str(seen)[:200])


def _endpoint(probe: Probe, found: Evidence) -> Iterator[Row]:
    reached = found.x509.code not in {"UNAVAILABLE", "DEADLINE_EXCEEDED"} or found.x509_bundles.code == "OK"
    yield _row("E-1", "M", "the API is served over gRPC", reached, found.x509.code)
    codes: dict[str, str] = {}
    for label, metadata in (
        ("missing", ()),
        ("True", (("workload.spiffe.io", "True"),)),
        ("1", (("workload.spiffe.io", "1"),)),
        ("twice", (*HEADER, *HEADER)),
    ):
        for name, request in (
            ("FetchX509SVID", pb.X509SVIDRequest()),
            ("FetchX509Bundles", pb.X509BundlesRequest()),
            ("FetchJWTSVID", pb.JWTSVIDRequest(audience=[AUDIENCE])),
            ("FetchJWTBundles", pb.JWTBundlesRequest()),
            ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="a", svid="b")),
        ):
            codes[f"{name} {label}"] = probe.call(name, request, metadata).code
    codes["reflection missing"] = probe.raw(REFLECTION, ()).code
    wrong = {label: code for label, code in codes.items() if code not in {"INVALID_ARGUMENT", "UNIMPLEMENTED"}}
    wrong |= {label: code for label, code in codes.items() if label[0] in "FV" and code != "INVALID_ARGUMENT"}
    yield _row("E-3", "M", "`workload.spiffe.io: true` is demanded, exactly", not wrong, wrong or "all refused")
    strict = [code for label, code in codes.items() if label.endswith("missing")]
    yield _row("E-4", "M", "a request without it is InvalidArgument", set(strict) <= {"INVALID_ARGUMENT"}, strict)
    unknown = probe.raw(SERVICE + "FetchNothing").code
    yield _row("E-12", "M", "an unknown method is Unimplemented", unknown == "UNIMPLEMENTED", unknown)
    shown = probe.raw(REFLECTION).code
    yield _row("E-14", "S", "reflection is served", shown != "UNIMPLEMENTED", shown)
    profiles = {"X.509": found.x509.code, "JWT": found.jwt.code, "JWT bundles": found.jwt_bundles.code}
    served = "UNIMPLEMENTED" not in profiles.values()
    wit = {name: probe.raw(SERVICE + name).code for name in WIT_METHODS}
    at_once = len({code == "UNIMPLEMENTED" for code in wit.values()}) == 1
    yield _row("W-1", "M", "X.509 and JWT are served; of WIT all or nothing", served and at_once, {**profiles, **wit})


def _x509_api(found: Evidence) -> Iterator[Row]:
    streams = {"SVIDs": found.x509, "bundles": found.x509_bundles, "JWT bundles": found.jwt_bundles}
    given = {name: item for name, item in streams.items() if item.message is not None}
    yield _row(
        "W-4",
        "M",
        "a stream sends at once and stays open",
        all(item.is_open and item.seconds < WITHIN_S for item in given.values()) if given else None,
        {name: f"{item.seconds * 1000:.0f} ms, {'open' if item.is_open else 'ended'}" for name, item in given.items()},
    )
    svids = found.x509.message.svids if found.x509.message is not None else ()
    denied = found.x509.code if found.x509.message is None else ""
    yield _row("W-7", "M", "there is at least one SVID", bool(svids) if not denied else None, denied or len(svids))
    yield _row(
        "W-12", "S", "no identity is PermissionDenied", denied == "PERMISSION_DENIED" if denied else None, denied
    )
    for name, level, words, check in (
        ("W-8", "M", "the chain is DER, leaf first, and the key is the leaf's", _is_own_key),
        ("W-9", "M", "the key is unencrypted PKCS#8 DER", _is_pkcs8),
        ("W-10", "M", "the bundle is DER, not PEM", lambda item: bool(split_chain(item.bundle))),
    ):
        yield _each(name, level, words, svids, check)
    hints = [item.hint for item in svids if item.hint]
    good = len(set(hints)) == len(hints) if svids else None
    yield _row("W-11", "M", "a hint stands once in a response", good, hints)


def _jwt_api(probe: Probe, found: Evidence) -> Iterator[Row]:
    empty = probe.call("FetchJWTSVID", pb.JWTSVIDRequest()).code
    yield _row("W-6", "S", "an empty audience is InvalidArgument", empty == "INVALID_ARGUMENT", empty)
    own = {SpiffeId.parse(name).trust_domain.id for name in _ids(found)}
    for outcome, kind in ((found.x509_bundles, "X.509"), (found.jwt_bundles, "JWT")):
        keys = set(outcome.message.bundles) if outcome.message is not None else None
        wanted = {str(item) for item in own}
        yield _row(
            "W-13",
            "M",
            f"the {kind} bundles hold the own trust domain, by its SPIFFE ID",
            None if keys is None or not wanted else wanted <= keys,
            sorted(keys or ()) or outcome.code,
        )
    tokens = found.jwt.message.svids if found.jwt.message is not None else ()
    yield _each("W-16", "M", "the token's audience is the one asked for", tokens, _is_for_audience)
    if not tokens or not _COMPACT.match(tokens[0].svid):
        return
    name, token = str(tokens[0].spiffe_id), str(tokens[0].svid)
    single = probe.call("FetchJWTSVID", pb.JWTSVIDRequest(audience=[AUDIENCE], spiffe_id=name))
    got = names_of(single.message.svids) if single.message is not None else single.code
    yield _row("W-16", "M", "a named identity alone is given", got == [name], got)
    other = probe.call("FetchJWTSVID", pb.JWTSVIDRequest(audience=[AUDIENCE], spiffe_id=f"{name}-not-mine")).code
    yield _row("W-16", "M", "an identity of somebody else is PermissionDenied", other == "PERMISSION_DENIED", other)
    yield from _validation(probe, name, token)


def _validation(probe: Probe, name: str, token: str) -> Iterator[Row]:
    def validate(audience: str, svid: str) -> Outcome:
        return probe.call("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience=audience, svid=svid))

    good = validate(AUDIENCE, token)
    said = None if good.message is None else good.message.spiffe_id
    yield _row("W-17", "M", "a token that is good is validated", said == name, said or good.code)
    claims = set() if good.message is None else set(good.message.claims.fields)
    yield _row(
        "W-17", "S", "its claims are given, with sub, aud and exp", {"sub", "aud", "exp"} <= claims, sorted(claims)
    )
    head, body, signature = token.split(".")
    swapped = _encoded({**_decoded(head), "alg": "none"})
    refused = {
        "another audience (J-12)": validate(AUDIENCE + "-other", token).code,
        "a changed signature": validate(AUDIENCE, f"{head}.{body}.{signature[:-4]}AAAA").code,
        "another subject": validate(
            AUDIENCE, f"{head}.{_encoded({**_decoded(body), 'sub': name + 'x'})}.{signature}"
        ).code,
        "alg none (J-5)": validate(AUDIENCE, f"{swapped}.{body}.").code,
    }
    passed = [label for label, code in refused.items() if code == "OK"]
    yield _row("W-17", "M", "a token that is not good is refused", not passed, passed or refused)
    yield _row("J-12", "M", "a token for somebody else is refused", refused["another audience (J-12)"] != "OK")
    yield _row("J-5", "M", "`none` is refused", refused["alg none (J-5)"] != "OK")


def _documents(found: Evidence, clock: Clock) -> Iterator[Row]:
    svids = found.x509.message.svids if found.x509.message is not None else ()
    for name, words, check in _LEAF:
        yield _each(name, "M", words, svids, lambda item, check=check: check(_leaf(item)))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
    for name, words, check in _SIGNER:
        yield _each(name, "M", words, svids, lambda item, check=check: all(map(check, _signers(item))))  # type: ignore[misc]
    yield _each("X-16", "M", "the chain verifies with its own bundle", svids, lambda item: _verifies(item, clock))
    names = [*_ids(found)]
    yield _row("ID-1", "M", "every SPIFFE ID follows the grammar", all(map(_is_id, names)) if names else None, names)
    tokens = found.jwt.message.svids if found.jwt.message is not None else ()
    for name, words, claim in _TOKEN:
        yield _each(name, "M", words, tokens, claim)
    keys = list(_jwks(found))
    for name, words, wanted in (
        ("J-17", "a JWT key's use is `jwt-svid`", lambda key: key.get("use") == "jwt-svid"),
        ("J-18", "a JWT key has a `kid`", lambda key: bool(key.get("kid"))),
        ("W-15", "JWT bundles hold no keys of another use", lambda key: key.get("use") == "jwt-svid"),
        ("B-9", "`kty` is set", lambda key: bool(key.get("kty"))),
    ):
        yield _row(name, "M", words, all(map(wanted, keys)) if keys else None, f"{len(keys)} keys")


# -- looking at one thing


def _each(name: str, level: str, words: str, items: Any, check: Callable[[Any], Any]) -> Row:  # noqa: ANN401  messages
    """A row that holds when every one of some things passes; what cannot be read does not."""
    if not items:
        return _row(name, level, words, None)
    for item in items:
        try:
            good = bool(check(item))
        except Exception as err:  # noqa: BLE001  whatever a stranger's bytes raise is the finding
            return _row(name, level, words, False, f"{item.spiffe_id}: {type(err).__name__}: {err}")
        if not good:
            return _row(name, level, words, False, item.spiffe_id)
    return _row(name, level, words, True, f"{len(items)} checked")


def _ids(found: Evidence) -> list[str]:
    messages = [item.message for item in (found.x509, found.jwt) if item.message is not None]
    return [name for message in messages for name in names_of(message.svids) if _is_id(name)] or [
        name for message in messages for name in names_of(message.svids)
    ]


def _is_id(text: str) -> bool:
    try:
        return bool(SpiffeId.parse(text).path)
    except SpiffeIdError:
        return False


def _leaf(item: Any) -> x509.Certificate:  # noqa: ANN401
    return x509.load_der_x509_certificate(split_chain(item.x509_svid)[0])


def _signers(item: Any) -> list[x509.Certificate]:  # noqa: ANN401
    ders = (*split_chain(item.x509_svid)[1:], *split_chain(item.bundle))
    return [x509.load_der_x509_certificate(der) for der in ders]


def _uris(found: x509.Certificate) -> list[str]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _use(found: x509.Certificate) -> x509.Extension[x509.KeyUsage]:
    return found.extensions.get_extension_for_class(x509.KeyUsage)


def _is_ca(found: x509.Certificate) -> bool:
    try:
        return found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _has_critical_names(found: x509.Certificate) -> bool:
    return bool(list(found.subject)) or found.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def _both_uses(found: x509.Certificate) -> bool:
    try:
        uses = set(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return True
    return {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= uses


_LEAF: tuple[tuple[str, str, Callable[[x509.Certificate], bool]], ...] = (
    ("X-1", "a leaf has exactly one URI SAN", lambda leaf: len(_uris(leaf)) == 1),
    ("X-2", "its SPIFFE ID has a path", lambda leaf: _is_id(_uris(leaf)[0])),
    ("X-3", "with an empty subject the SAN is critical", _has_critical_names),
    ("X-6", "a leaf is no CA", lambda leaf: not _is_ca(leaf)),
    ("X-8", "the key usage is critical", lambda leaf: _use(leaf).critical),
    ("X-10", "a leaf has digitalSignature", lambda leaf: _use(leaf).value.digital_signature),
    (
        "X-11",
        "a leaf has neither keyCertSign nor cRLSign",
        lambda leaf: not _use(leaf).value.key_cert_sign and not _use(leaf).value.crl_sign,
    ),
    ("X-13", "an extended key usage has server and client authentication", _both_uses),
)
_SIGNER: tuple[tuple[str, str, Callable[[x509.Certificate], bool]], ...] = (
    (
        "X-4",
        "a signer's SPIFFE ID, if any, has no path",
        lambda found: all(not name.removeprefix("spiffe://").count("/") for name in _uris(found) if "spiffe:" in name),
    ),
    ("X-7", "a signer is a CA", _is_ca),
    ("X-9", "a signer has keyCertSign", lambda found: _use(found).value.key_cert_sign),
)


def _is_own_key(item: Any) -> bool:  # noqa: ANN401
    key = load_der_private_key(item.x509_svid_key, password=None)
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return _uris(_leaf(item)) == [item.spiffe_id] and key.public_key().public_bytes(*form) == _leaf(
        item
    ).public_key().public_bytes(*form)


def _is_pkcs8(item: Any) -> bool:  # noqa: ANN401
    return load_der_private_key(item.x509_svid_key, password=None) is not None


def _verifies(item: Any, clock: Clock) -> bool:  # noqa: ANN401
    domain: TrustDomain = SpiffeId.parse(item.spiffe_id).trust_domain
    bundle = TrustBundle(trust_domain=domain, x509_authorities=split_chain(item.bundle))
    try:
        found = verify_x509_svid(split_chain(item.x509_svid), {domain: bundle}, clock.now())
    except Problem as problem:
        raise ValueError(str(problem)) from problem
    return str(found.spiffe_id) == str(item.spiffe_id)


def _decoded(part: str) -> dict[str, Any]:
    found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def _encoded(found: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(found, separators=(",", ":")).encode()).rstrip(b"=").decode()


def _head(item: Any) -> dict[str, Any]:  # noqa: ANN401
    return _decoded(item.svid.split(".")[0])


def _body(item: Any) -> dict[str, Any]:  # noqa: ANN401
    return _decoded(item.svid.split(".")[1])


def _audiences(item: Any) -> list[str]:  # noqa: ANN401
    found = _body(item).get("aud")
    return [found] if isinstance(found, str) else list(found or ())


def _is_for_audience(item: Any) -> bool:  # noqa: ANN401
    return _audiences(item) == [AUDIENCE]


_TOKEN: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("J-1", "a token is a compact JWS", lambda item: _COMPACT.match(item.svid) is not None),
    ("J-3", "its header has alg, kid and typ alone", lambda item: set(_head(item)) <= {"alg", "kid", "typ"}),
    ("J-4", "its algorithm is one of the nine", lambda item: _head(item).get("alg") in ALGORITHMS),
    ("J-8", "its typ, if set, is JWT or JOSE", lambda item: _head(item).get("typ", "JWT") in {"JWT", "JOSE"}),
    ("J-9", "its subject is the SPIFFE ID", lambda item: _body(item).get("sub") == item.spiffe_id),
    ("J-10", "it has an audience", lambda item: bool(_audiences(item))),
    ("J-13", "it has an end", lambda item: type(_body(item).get("exp")) in {int, float}),
)


def _jwks(found: Evidence) -> Iterator[dict[str, Any]]:
    if found.jwt_bundles.message is None:
        return
    for data in found.jwt_bundles.message.bundles.values():
        try:
            yield from json.loads(data)["keys"]
        except (ValueError, KeyError, TypeError):
            yield {}
