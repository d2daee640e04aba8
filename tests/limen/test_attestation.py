"""Nodes that other people certified come in by the real door: certificates, projected tokens, CI jobs."""

import asyncio
import base64
import datetime as dt
import json
import pathlib
import threading
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enforcer.door import Door
from enforcer.join import Admission
from enforcer.proof import Method, attest
from limen import attestation
from mesh.keysets import KeySets, Source
from mesh.problems import Forbidden, Problem, Unavailable
from tests.ca.attestation.issuers import AUDIENCE, ISSUER, RSA_KEY, jwk, key_set, token
from tests.doors import Doors
from tests.pki import Made, make, respelled, usage
from tests.world import World

CA_KEY = ec.generate_private_key(ec.SECP256R1())
FILE = f"""
attestors:
- {{name: vm, type: x509pop, ca: ca.pem, node: "{{x509-cn}}"}}
- name: prod
  type: k8s
  cluster: prod-eu
  issuer: {ISSUER}
  audience: {AUDIENCE}
  jwks: keys.json
  service_accounts: [limen/agent]
- name: ci
  type: oidc
  issuer: {ISSUER}
  audience: {AUDIENCE}
  jwks: keys.json
  claims: {{repository: corp/shop}}
  facts: [repository, run_id]
  node: "{{oidc-run_id}}"
- {{name: hw, type: tpm, ek_hashes: ["{"ab" * 32}"]}}
"""


class Place:
    """A server with attestors, and what its nodes prove themselves with."""

    def __init__(self, world: World) -> None:
        self.world, self.folder = world, world.state
        now = world.clock.now()
        self.times: dict[str, Any] = {"begin": now - dt.timedelta(hours=1), "end": now + dt.timedelta(hours=1)}
        self.ca = make(subject="machines", ca=True, key_usage=usage(key_cert_sign=True), extended=None, **self.times)
        (self.folder / "ca.pem").write_bytes(self.ca.pem)
        (self.folder / "keys.json").write_bytes(key_set(jwk(RSA_KEY, "r1")))
        (self.folder / "attestors.yaml").write_text(FILE)
        world.app.tick()

    def machine(self, name: str) -> Method:
        made: Made = make(
            issuer=self.ca, subject=name, key_usage=usage(digital_signature=True), dns=(name,), **self.times
        )
        cert, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.write_bytes(made.pem)
        key.write_bytes(made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Method.parse(f"x509pop:cert={cert},key={key}")

    def token(self, kind: str, **claims: object) -> Method:
        now = int(self.world.clock.now().timestamp())
        path = self.folder / f"{kind}.jwt"
        path.write_text(token(iat=now - 5, exp=now + 600, **claims))
        return Method.parse(f"{kind}:token={path}")

    def job(self, **claims: object) -> Method:
        return self.token("oidc", repository="corp/shop", run_id="77", **claims)

    def pod(self) -> Method:
        bound = {
            "namespace": "limen",
            "serviceaccount": {"name": "agent", "uid": "u"},
            "pod": {"name": "agent-x", "uid": "p"},
            "node": {"name": "node-a", "uid": "n"},
        }
        return self.token("k8s", **{"sub": "system:serviceaccount:limen:agent", "kubernetes.io": bound})


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


async def let_in(
    doors: Doors, method: Method, key: ec.EllipticCurvePrivateKey | None = None, *, fresh: bool = True
) -> Admission:
    door = Door(doors.url, str(doors.world.app.pins()["server"]))
    return await asyncio.to_thread(attest, method, door, key or new_key(), is_fresh=fresh)


def test_each_kind_of_proof_lets_its_node_in(world_now: World) -> None:
    place = Place(world_now)

    async def run() -> None:
        async with Doors(world_now) as doors:
            vm = await let_in(doors, place.machine("web-1"))
            assert vm.spiffe_id == "spiffe://world.test/limen/agent/vm.web-1"
            assert dict(vm.facts)["node:x509-cn"] == "web-1"
            assert dict(vm.facts)["node:method"] == "x509pop"
            pod = await let_in(doors, place.pod())
            assert pod.spiffe_id.endswith("/prod.node-a")
            job = await let_in(doors, place.job())
            assert job.spiffe_id.endswith("/ci.77")
            assert dict(job.facts)["node:oidc-repository"] == "corp/shop"
            # again, by another of its keys: the same node
            again = await let_in(doors, place.machine("web-1"), fresh=False)
            assert again.spiffe_id == vm.spiffe_id

    asyncio.run(run())
    names = [row["node"] for row in world_now.app.nodes.list()]
    assert names == ["ci.77", "prod.node-a", "vm.web-1"]
    world_now.rules('rules:\n- id: r\n  match: {"node:attestor": "vm", "node:x509-cn": "web-*"}\n  spiffe_id: "/web"\n')
    assert world_now.issue("vm.web-1", unix__uid="1").spiffe_id == "spiffe://world.test/web"
    assert world_now.issue("ci.77", node__attestor="vm", **{"node__x509-cn": "web-1"}).code == "LM1210"


def test_a_jobs_token_works_with_the_first_key_alone(world_now: World) -> None:
    place = Place(world_now)

    async def run() -> None:
        async with Doors(world_now) as doors:
            method, key = place.job(), new_key()
            await let_in(doors, method, key)
            # killed before it had the answer, the job asks again with its key
            await let_in(doors, method, key)
            with pytest.raises(Forbidden, match="LM1260"):
                await let_in(doors, method)

    asyncio.run(run())


def test_a_ban_holds_whatever_is_proved(world_now: World) -> None:
    place = Place(world_now)

    async def run() -> None:
        async with Doors(world_now) as doors:
            method = place.machine("web-1")
            await let_in(doors, method)
            world_now.app.ban_node("vm.web-1", reason="", actor="test")
            with pytest.raises(Forbidden, match="LM1243"):
                await let_in(doors, method)

    asyncio.run(run())


def test_a_ban_holds_for_every_name_that_a_machine_gives_itself(world_now: World) -> None:
    """Named by its fingerprint, it spells its certificate in another way, and is banned all the same."""
    place = Place(world_now)
    (place.folder / "attestors.yaml").write_text(FILE.replace("{x509-cn}", "{x509-fingerprint}"))
    world_now.app.tick()

    async def run() -> None:
        async with Doors(world_now) as doors:
            method = place.machine("web-1")
            path = place.folder / "web-1.crt"
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            other = x509.load_der_x509_certificate(respelled(certificate)).public_bytes(Encoding.PEM)
            first = name_of(await let_in(doors, method))
            path.write_bytes(other)
            second = name_of(await let_in(doors, method))
            assert first != second
            neighbour = name_of(await let_in(doors, place.machine("web-2")))
            # both names are banned at once
            banned = world_now.app.ban_node(first, reason="stolen", actor="test")
            assert (banned["node"], banned["also"]) == (first, [second])
            for spelling in (certificate.public_bytes(Encoding.PEM), other):
                path.write_bytes(spelling)
                with pytest.raises(Forbidden, match="LM1243"):
                    await let_in(doors, method)
            # a name that nobody has seen yet
            (place.folder / "attestors.yaml").write_text(FILE.replace("{x509-cn}", "again-{x509-fingerprint}"))
            world_now.app.tick()
            with pytest.raises(Forbidden, match="LM1243"):
                await let_in(doors, method)
            listed = {row["node"]: row["banned"] is not None for row in world_now.app.nodes.list()}
            assert listed == {first: True, second: True, neighbour: False}
            # what is allowed again is allowed under every name
            assert world_now.app.nodes.allow(second, actor="test")["also"] == [first]
            await let_in(doors, method)

    asyncio.run(run())


def name_of(admission: Admission) -> str:
    return admission.spiffe_id.rpartition("/")[2]


def test_the_token_for_an_issuer_stands_beside_the_file_that_names_it(world_now: World) -> None:
    place = Place(world_now)
    text = FILE.replace("jwks: keys.json", "jwks: https://issuer.test/jwks\n  jwks_token: cluster-token", 1)
    (place.folder / "attestors.yaml").write_text(text)
    world_now.app.tick()
    asked: list[Source] = []

    def fetch(source: Source) -> bytes:
        asked.append(source)
        return key_set(jwk(RSA_KEY, "r1"))

    world_now.app.attestation._key_sets = KeySets(fetch)

    async def run() -> None:
        async with Doors(world_now) as doors:
            await let_in(doors, place.pod())

    asyncio.run(run())
    assert [source.token_path for source in asked] == [str(place.folder / "cluster-token")]


def test_nothing_is_written_for_a_proof_that_does_not_hold(world_now: World, tmp_path: pathlib.Path) -> None:
    place = Place(world_now)
    records = world_now.app.status()["records"]
    stranger = make(subject="machines", ca=True, key_usage=usage(key_cert_sign=True), extended=None, **place.times)
    place.ca = stranger
    (tmp_path / "no.jwt").write_text("a.b.c")

    async def run() -> None:
        async with Doors(world_now) as doors:
            for method, code in [
                (place.machine("web-1"), "LM1246"),
                (Method.parse(f"oidc:token={tmp_path}/no.jwt"), "LM1248"),
                (place.job(sub=None), "LM1248"),
                (Method.parse(f"k8s:name=gone,token={tmp_path}/no.jwt"), "LM1245"),
            ]:
                with pytest.raises(Problem, match=code):
                    await let_in(doors, method)
            door = Door(doors.url, str(world_now.app.pins()["server"]))
            body = {"attestor": "tpm", "ek": "AAAA", "ak": "AAAA"}
            with pytest.raises(Forbidden, match="LM1247"):
                await asyncio.to_thread(door.post, "/v1/node/challenge", body)
            with pytest.raises(Forbidden, match="LM1247"):
                await asyncio.to_thread(door.post, "/v1/node/challenge", {**body, "attestor": "vm"})

    asyncio.run(run())
    assert world_now.app.nodes.list() == []
    assert world_now.app.status()["records"] == records


def test_a_nonce_lets_one_proof_in(world_now: World) -> None:
    place = Place(world_now)
    method, key = place.machine("web-1"), new_key()
    sent: list[dict[str, Any]] = []

    class Recording(Door):
        def post(self, path: str, body: Any) -> dict[str, Any]:
            sent.append(dict(body))
            return super().post(path, body)

    async def run() -> None:
        async with Doors(world_now) as doors:
            door = Recording(doors.url, str(world_now.app.pins()["server"]))
            await asyncio.to_thread(attest, method, door, key, is_fresh=True)
            with pytest.raises(Forbidden, match="LM1240"):
                await asyncio.to_thread(door.post, "/v1/node/attest", sent[-1])
            # with a new nonce, the old signature is worth nothing
            nonce = await asyncio.to_thread(door.post, "/v1/node/nonce", {})
            with pytest.raises(Forbidden, match="LM1246"):
                await asyncio.to_thread(door.post, "/v1/node/attest", {**sent[-3], "nonce": nonce["nonce"]})
            # nor for another key
            again = {**sent[-4], "spki": base64.b64encode(world_now.spki()).decode(), "nonce": nonce["nonce"]}
            with pytest.raises(Forbidden, match="LM1240"):
                await asyncio.to_thread(door.post, "/v1/node/attest", again)

    asyncio.run(run())


def test_an_issuer_that_hangs_holds_up_no_other_node(world_now: World, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(world_now)
    release = threading.Event()
    keys_for = attestation.Attestation.keys_for

    def hanging(self: attestation.Attestation, evidence: attestation.Evidence) -> Any:
        if evidence.attestor == "oidc":
            release.wait(100)
            raise Unavailable("LM1249", source="x", reason="it hangs")
        return keys_for(self, evidence)

    monkeypatch.setattr(attestation.Attestation, "keys_for", hanging)

    async def run() -> None:
        async with Doors(world_now) as doors:
            async with asyncio.timeout(60):
                stuck = asyncio.ensure_future(let_in(doors, place.job()))
                await let_in(doors, place.machine("web-1"))
                await asyncio.to_thread(Door(doors.url, str(world_now.app.pins()["server"])).post, "/v1/node/nonce", {})
                release.set()
                with pytest.raises(Unavailable, match="LM1249"):
                    await stuck

    asyncio.run(run())


def test_the_attestors_are_listed_and_their_change_is_recorded(world_now: World) -> None:
    Place(world_now)
    assert [row["name"] for row in world_now.app.attestation.list()] == ["vm", "prod", "ci", "hw"]
    events = [json.dumps(row) for row in world_now.app.records(after=0, kind="policy", limit=9)]
    assert any('"attestors"' in row for row in events)
