from typing import Any

import pytest

from ca.attestation import k8s
from ca.attestation.evidence import node_name
from mesh.jwks import parse_jwks
from mesh.jwtproof import JwtTrust
from mesh.problems import Forbidden
from tests.ca.attestation.issuers import AUDIENCE, ISSUER, NOW, key_set, token

KEYS = parse_jwks(key_set())
ATTESTOR = k8s.K8s(
    name="prod",
    node=k8s.DEFAULT_NODE,
    trust=JwtTrust(issuer=ISSUER, audiences=(AUDIENCE,)),
    keys="keys.json",
    cluster="prod-eu",
    service_accounts=("limen/agent",),
)
BOUND: dict[str, Any] = {
    "namespace": "limen",
    "serviceaccount": {"name": "agent", "uid": "u-1"},
    "pod": {"name": "agent-x7", "uid": "u-2"},
    "node": {"name": "node-a", "uid": "u-3"},
}


def projected(sub: str = "system:serviceaccount:limen:agent", **other: Any) -> str:
    bound = {name: value for name, value in {**BOUND, **other}.items() if value is not None}
    return token(sub=sub, **{"kubernetes.io": bound})


def test_a_projected_token_says_which_pod_on_which_node() -> None:
    found = k8s.verify(ATTESTOR, token=projected(), keys=KEYS, now=NOW)
    assert dict(found.facts) == {
        "node:k8s-cluster": "prod-eu",
        "node:k8s-ns": "limen",
        "node:k8s-sa": "agent",
        "node:k8s-sa-uid": "u-1",
        "node:k8s-pod": "agent-x7",
        "node:k8s-pod-uid": "u-2",
        "node:k8s-node": "node-a",
        "node:k8s-node-uid": "u-3",
    }
    assert node_name(ATTESTOR.name, ATTESTOR.node, found.facts) == "prod.node-a"
    # before Kubernetes 1.30 no node is named; such an attestor names its nodes otherwise
    older = k8s.verify(ATTESTOR, token=projected(node=None), keys=KEYS, now=NOW)
    assert "node:k8s-node" not in dict(older.facts)
    with pytest.raises(Forbidden, match="LM1259"):
        node_name(ATTESTOR.name, ATTESTOR.node, older.facts)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(token(), id="no-projected-token"),
        pytest.param(projected(pod=None), id="no-pod"),
        pytest.param(projected(pod={"name": "x"}), id="no-pod-uid"),
        pytest.param(projected(pod={"name": 7, "uid": "x"}), id="pod-is-a-number"),
        pytest.param(projected(serviceaccount={"name": "web", "uid": "u"}), id="sub-of-another"),
        pytest.param(
            projected("system:serviceaccount:limen:web", serviceaccount={"name": "web", "uid": "u"}),
            id="another-account",
        ),
        pytest.param(projected("system:serviceaccount:shop:agent", namespace="shop"), id="another-namespace"),
        pytest.param(projected(node={}), id="empty-node"),
        pytest.param("x.y.z", id="no-token"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Forbidden, match="LM1248"):
        k8s.verify(ATTESTOR, token=text, keys=KEYS, now=NOW)
