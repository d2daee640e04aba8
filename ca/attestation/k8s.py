"""Node attestation by a Kubernetes projected service account token: which pod, on which node, of which cluster.

The cluster's keys say that it made the token for this pod; nobody asks the cluster whether the pod still runs, so a
stolen token is good until it ends. Keep `expirationSeconds` of the projected volume short.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from ca.attestation.evidence import Attested, collect
from mesh.jwks import JwtKey
from mesh.jwtproof import JwtTrust, verify_jwt
from mesh.problems import Forbidden

FIELDS = ("k8s-cluster", "k8s-ns", "k8s-sa", "k8s-sa-uid", "k8s-pod", "k8s-pod-uid", "k8s-node", "k8s-node-uid")
DEFAULT_NODE = "{k8s-node}"
_CLAIM = "kubernetes.io"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class K8s:
    """An attestor for one cluster. ``service_accounts`` are ``namespace/name``; ``keys`` is where its key set is."""

    name: str
    node: str
    trust: JwtTrust
    keys: str
    cluster: str
    service_accounts: tuple[str, ...]
    keys_ca: bytes = b""
    keys_token: str = ""
    type: str = "k8s"


def verify(attestor: K8s, *, token: str, keys: Sequence[JwtKey], now: dt.datetime) -> Attested:
    """Verify a projected token.

    1. The token verifies (`jwtproof.verify_jwt`).
    2. It is a service account's that may attest nodes, and its subject says the same.
    3. It is bound to a pod: name and uid.

    Raises Forbidden LM1248.
    """
    try:
        # (1)
        claims = verify_jwt(token, keys, attestor.trust, now)
        bound = claims.get(_CLAIM)
        if not isinstance(bound, dict):
            raise ValueError(f"it has no `{_CLAIM}` claim: it is no projected token")
        # (2)
        namespace = _text(bound, "namespace")
        account = _text(bound, "serviceaccount", "name")
        if claims.get("sub") != f"system:serviceaccount:{namespace}:{account}":
            raise ValueError("its subject is another one than its service account")
        if f"{namespace}/{account}" not in attestor.service_accounts:
            raise ValueError(f"the service account {namespace}/{account} is not among those that attest nodes")
        # (3)
        facts = collect(
            {
                "k8s-cluster": attestor.cluster,
                "k8s-ns": namespace,
                "k8s-sa": account,
                "k8s-sa-uid": _text(bound, "serviceaccount", "uid"),
                "k8s-pod": _text(bound, "pod", "name"),
                "k8s-pod-uid": _text(bound, "pod", "uid"),
                # Kubernetes 1.30 and later
                "k8s-node": _text(bound, "node", "name") if "node" in bound else None,
                "k8s-node-uid": _text(bound, "node", "uid") if "node" in bound else None,
            }
        )
    except ValueError as err:
        raise Forbidden("LM1248", attestor=attestor.name, reason=str(err)) from err
    return Attested(facts=facts)


def _text(claims: Mapping[str, Any], *path: str) -> str:
    found: object = claims
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, str) or not found:
        raise ValueError(f"it is not bound to a {'.'.join(path)}")
    return found
