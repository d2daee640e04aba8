"""A real API server of Kubernetes, and the tokens that it projects into pods: they let their pods' agents in.

The API server with etcd, and no more of a cluster: pods are objects that no kubelet runs, and the token is asked for
as a kubelet asks for one (TokenRequest, bound to the pod).
"""

import asyncio
import dataclasses
import json
import os
import pathlib
import secrets
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from enforcer.door import Door
from enforcer.join import Admission
from enforcer.proof import Method, attest
from mesh.problems import Forbidden
from tests.doors import Doors, at_present
from tests.ports import free_port
from tests.tools import require
from tests.world import World, make_world

pytestmark = [pytest.mark.system, pytest.mark.peer, pytest.mark.slow]
ISSUER = "https://kubernetes.default.svc.cluster.local"


def api_server() -> str:
    found = shutil.which("kube-apiserver", path=f"{os.environ.get('LIMEN_KUBERNETES', '')}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("not installed: kube-apiserver (.ci/kubernetes builds it)")
    return found


@dataclasses.dataclass(slots=True, kw_only=True)
class Cluster:
    """The API of a cluster, asked by its administrator."""

    url: str
    folder: pathlib.Path
    admin: str

    @property
    def ca(self) -> pathlib.Path:
        return self.folder / "ca.pem"

    def call(self, method: str, path: str, body: object = None, token: str = "") -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {token or self.admin}", "content-type": "application/json"},
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return json.loads(answer.read() or b"null")

    def is_ready(self) -> bool:
        try:
            return bool(self.call("GET", "/version")) and bool(self.call("GET", "/api/v1/namespaces/default"))
        except (OSError, ValueError):
            return False

    def shows_keys(self, token: str) -> bool:
        """Whether the one with this token may read the keys: the roles of a new server take a moment to hold."""
        try:
            return bool(self.call("GET", "/openid/v1/jwks", token=token))
        except OSError:
            return False

    def account(self, namespace: str, name: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        self.call("POST", path, {"metadata": {"name": name}})

    def pod(self, namespace: str, name: str, account: str, node: str) -> dict[str, str]:
        """A pod that the scheduler put on a node; what a token may be bound to."""
        spec = {
            "serviceAccountName": account,
            "nodeName": node,
            "containers": [{"name": "agent", "image": "limen"}],
        }
        made = self.call("POST", f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": name}, "spec": spec})
        return {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": made["metadata"]["uid"]}

    def token(
        self, namespace: str, account: str, bound: dict[str, str] | None = None, audience: str | None = "limen"
    ) -> str:
        spec: dict[str, Any] = {"audiences": [audience] if audience else [], "expirationSeconds": 600}
        if bound is not None:
            spec["boundObjectRef"] = bound
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return str(self.call("POST", path, asked)["status"]["token"])


def start(command: list[str], folder: pathlib.Path) -> subprocess.Popen[bytes]:
    with (folder / f"{pathlib.Path(command[0]).name}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, until: Callable[..., object]) -> Iterator[Cluster]:
    binary, folder = api_server(), tmp_path_factory.mktemp("cluster")
    require("etcd")
    authority = trustme.CA()
    shown = authority.issue_cert("127.0.0.1")
    shown.private_key_and_cert_chain_pem.write_to_path(str(folder / "tls.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    key = rsa.generate_private_key(65537, 2048)
    (folder / "sa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "sa.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    admin = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{admin},admin,admin,"system:masters"\n')
    client, peer, port = (free_port() for _ in range(3))
    etcd = start(
        [
            "etcd", "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", f"http://127.0.0.1:{client}", "--advertise-client-urls",
            f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster",
            f"default=http://127.0.0.1:{peer}",
        ],
        folder,
    )  # fmt: skip
    server = start(
        [
            binary, f"--etcd-servers=http://127.0.0.1:{client}", "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1", f"--secure-port={port}", f"--tls-cert-file={folder}/tls.pem",
            f"--tls-private-key-file={folder}/tls.pem", f"--service-account-issuer={ISSUER}",
            f"--service-account-signing-key-file={folder}/sa.key", f"--service-account-key-file={folder}/sa.pub",
            "--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC",
            f"--token-auth-file={folder}/tokens.csv", "--endpoint-reconciler-type=none",
        ],
        folder,
    )  # fmt: skip
    found = Cluster(url=f"https://127.0.0.1:{port}", folder=folder, admin=admin)
    try:
        until(found.is_ready, 120)
        yield found
    finally:
        for process in (server, etcd):
            process.terminate()
            process.wait(timeout=200)


@pytest.fixture
def world_now(tmp_path: pathlib.Path) -> Iterator[World]:
    found = at_present(make_world(tmp_path / "state"))
    yield found
    found.app.close()


def agents(cluster: Cluster) -> str:
    """A namespace with an agent's account, and one that may read the cluster's keys: made once."""
    try:
        cluster.call("GET", "/api/v1/namespaces/limen")
    except urllib.error.HTTPError:
        cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": "limen"}})
        for account in ("agent", "other", "reader"):
            cluster.account("limen", account)
        cluster.call("POST", "/api/v1/nodes", {"metadata": {"name": "node-a"}})
    return "limen"


def trusts(cluster: Cluster, world: World, until: Callable[..., object]) -> None:
    """The guide's attestor, for this cluster."""
    (world.state / "cluster-ca.pem").write_bytes(cluster.ca.read_bytes())
    # who reads the keys shows the API server a token for itself
    token = cluster.token("limen", "reader", audience=None)
    until(lambda: cluster.shows_keys(token), 200)
    (world.state / "cluster-token").write_text(token)
    (world.state / "attestors.yaml").write_text(
        f"""
attestors:
- name: prod
  type: k8s
  cluster: prod-eu
  issuer: {ISSUER}
  audience: limen
  jwks: {cluster.url}/openid/v1/jwks
  jwks_ca: cluster-ca.pem
  jwks_token: cluster-token
  service_accounts: [limen/agent]
  node: "{{k8s-node}}"
"""
    )
    world.app.tick()


async def let_in(doors: Doors, folder: pathlib.Path, token: str) -> Admission:
    path = folder / "token"
    path.write_text(token)
    door = Door(doors.url, str(doors.world.app.pins()["server"]))
    key = ec.generate_private_key(ec.SECP256R1())
    return await asyncio.to_thread(attest, Method.parse(f"k8s:token={path}"), door, key, is_fresh=True)


def test_a_pods_token_lets_its_agent_in_and_no_other_token_does(
    cluster: Cluster, world_now: World, tmp_path: pathlib.Path, until: Callable[..., object]
) -> None:
    namespace = agents(cluster)
    trusts(cluster, world_now, until)
    pod = cluster.pod(namespace, "agent-x", "agent", "node-a")
    other = cluster.pod(namespace, "other-x", "other", "node-a")

    async def run() -> None:
        async with Doors(world_now) as doors:
            found = await let_in(doors, tmp_path, cluster.token(namespace, "agent", pod))
            assert found.spiffe_id == "spiffe://world.test/limen/agent/prod.node-a"
            facts = dict(found.facts)
            assert (facts["node:k8s-ns"], facts["node:k8s-sa"]) == ("limen", "agent")
            assert (facts["node:k8s-pod"], facts["node:k8s-pod-uid"]) == ("agent-x", pod["uid"])
            node = cluster.call("GET", "/api/v1/nodes/node-a")
            assert facts["node:k8s-node-uid"] == node["metadata"]["uid"]
            refused = {
                "another account's": cluster.token(namespace, "other", other),
                "bound to no pod": cluster.token(namespace, "agent"),
                "for the API server": cluster.token(namespace, "agent", pod, audience=None),
                "for somebody else": cluster.token(namespace, "agent", pod, audience="vault"),
            }
            before = world_now.app.status()["records"]
            for name, token in refused.items():
                with pytest.raises(Forbidden, match="LM1248"):
                    raise AssertionError((name, await let_in(doors, tmp_path, token)))
            assert world_now.app.status()["records"] == before

    asyncio.run(run())


def test_the_token_is_of_the_form_that_the_other_tests_make(cluster: Cluster) -> None:
    namespace = agents(cluster)
    pod = cluster.pod(namespace, "agent-form", "agent", "node-a")
    token = cluster.token(namespace, "agent", pod)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["iss"], claims["aud"], claims["sub"]) == (ISSUER, ["limen"], "system:serviceaccount:limen:agent")
    bound = claims["kubernetes.io"]
    assert set(bound) == {"namespace", "serviceaccount", "pod", "node"}
    for name in ("serviceaccount", "pod", "node"):
        assert set(bound[name]) == {"name", "uid"}
    assert jwt.get_unverified_header(token)["alg"] == "RS256"
