"""The Workload API's JWT messages (SPIFFE_Workload_API.md §6.2). Pure."""

from __future__ import annotations

import datetime as dt
import json

from google.protobuf.message import EncodeError

from enforcer.federated import given_to
from enforcer.identity import Identity
from enforcer.jwtsvids import HeldJwt
from mesh import canonicaljson
from mesh.bundle import TrustBundle
from mesh.jwtsvid import verify_jwt_svid
from mesh.problems import Forbidden, Invalid
from mesh.proto import workload_pb2 as pb


def bundles_message(identities: list[Identity], every: dict[str, TrustBundle]) -> pb.JWTBundlesResponse:
    """The JWT authorities of every trust domain that a caller is given, and no key of another use (W-13 to W-15)."""
    bundles = given_to(identities, every)
    return pb.JWTBundlesResponse(bundles={f"spiffe://{name}": _jwks(found) for name, found in bundles.items()})


def check(request: pb.JWTSVIDRequest | pb.ValidateJWTSVIDRequest) -> None:
    """Look whether a request has its mandatory fields, whoever asks (W-6).

    Raises Invalid LM3509 for one that is missing or empty, and for an audience that is empty.
    """
    audiences = [request.audience] if isinstance(request, pb.ValidateJWTSVIDRequest) else list(request.audience)
    if not audiences or not all(audiences):
        raise Invalid("LM3509", name="audience")
    if isinstance(request, pb.ValidateJWTSVIDRequest) and not request.svid:
        raise Invalid("LM3509", name="svid")


def wanted(request: pb.JWTSVIDRequest, identities: list[Identity]) -> list[Identity]:
    """The identities that tokens are asked for: all of a caller's, or the one that is named (W-16).

    Raises Forbidden LM3510 for an identity that the caller does not have.
    """
    found = [item for item in identities if request.spiffe_id in {"", str(item.svid.spiffe_id)}]
    if not found:
        raise Forbidden("LM3510", spiffe_id=request.spiffe_id[:200])
    return found


def svids_message(found: list[tuple[Identity, HeldJwt]]) -> pb.JWTSVIDResponse:
    """The tokens, in the order of the identities; a hint stands once (W-11)."""
    hints: set[str] = set()
    svids = []
    for identity, held in found:
        hint = held.hint if held.hint not in hints else ""
        hints.add(held.hint)
        svids.append(pb.JWTSVID(spiffe_id=str(identity.svid.spiffe_id), svid=held.token, hint=hint))
    return pb.JWTSVIDResponse(svids=svids)


def validated(
    request: pb.ValidateJWTSVIDRequest, identities: list[Identity], every: dict[str, TrustBundle], now: dt.datetime
) -> pb.ValidateJWTSVIDResponse:
    """What a token says, for a caller who trusts the domains that it is given (W-17).

    1. The token passes the verifier that everything here uses.
    2. Its claims, all of them, can be said in a Struct.

    Raises Invalid with the verifier's codes for (1), LM1027 for (2).
    """
    # (1)
    trusted = {found.trust_domain: found for found in given_to(identities, every).values()}
    verified = verify_jwt_svid(request.svid, request.audience, trusted, now)
    # (2)
    answer = pb.ValidateJWTSVIDResponse(spiffe_id=str(verified.spiffe_id))
    try:
        answer.claims.update(verified.claims)
        answer.SerializeToString()
    except (ValueError, TypeError, OverflowError, RecursionError, EncodeError) as err:
        raise Invalid("LM1027", reason="they are numbers, text, lists and objects of bounded size") from err
    return answer


def _jwks(bundle: TrustBundle) -> bytes:
    return canonicaljson.dumps({"keys": [{**json.loads(jwk), "use": "jwt-svid"} for jwk in bundle.jwt_authorities]})
