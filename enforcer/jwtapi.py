"""The Workload API's JWT messages (SPIFFE_Workload_API.md §6.2). Pure."""

from __future__ import annotations

import json

from enforcer.federated import given_to
from enforcer.identity import Identity
from mesh import canonicaljson
from mesh.bundle import TrustBundle
from mesh.proto import workload_pb2 as pb


def bundles_message(identities: list[Identity], every: dict[str, TrustBundle]) -> pb.JWTBundlesResponse:
    """The JWT authorities of every trust domain that a caller is given, and no key of another use (W-13 to W-15)."""
    bundles = given_to(identities, every)
    return pb.JWTBundlesResponse(bundles={f"spiffe://{name}": _jwks(found) for name, found in bundles.items()})


def _jwks(bundle: TrustBundle) -> bytes:
    return canonicaljson.dumps({"keys": [{**json.loads(jwk), "use": "jwt-svid"} for jwk in bundle.jwt_authorities]})
