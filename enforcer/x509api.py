"""The Workload API's X.509 messages (SPIFFE_Workload_API.md §5.2). Pure."""

from __future__ import annotations

from enforcer.federated import given_to
from enforcer.identity import Identity
from mesh.bundle import TrustBundle
from mesh.proto import workload_pb2 as pb


def svids_message(identities: list[Identity], every: dict[str, TrustBundle]) -> pb.X509SVIDResponse:
    """All X.509-SVIDs of a caller, with the bundles that belong to them (W-7 to W-11)."""
    bundles = given_to(identities, every)
    svids = []
    hints: set[str] = set()
    for found in identities:
        own = bundles[found.svid.spiffe_id.trust_domain.name]
        # a hint stands once in a response (W-11)
        hint = found.hint if found.hint not in hints else ""
        hints.add(found.hint)
        svids.append(
            pb.X509SVID(
                spiffe_id=str(found.svid.spiffe_id),
                x509_svid=b"".join(found.svid.chain_der),
                x509_svid_key=found.svid.key_pkcs8_der,
                bundle=b"".join(own.x509_authorities),
                hint=hint,
            )
        )
    own_domains = {found.svid.spiffe_id.trust_domain.name for found in identities}
    return pb.X509SVIDResponse(
        svids=svids,
        federated_bundles={
            f"spiffe://{name}": b"".join(found.x509_authorities)
            for name, found in bundles.items()
            if name not in own_domains
        },
    )


def bundles_message(identities: list[Identity], every: dict[str, TrustBundle]) -> pb.X509BundlesResponse:
    """The X.509 authorities of every trust domain that a caller is given (W-13, W-14)."""
    bundles = given_to(identities, every)
    return pb.X509BundlesResponse(
        bundles={f"spiffe://{name}": b"".join(found.x509_authorities) for name, found in bundles.items()}
    )
