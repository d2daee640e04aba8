"""Nodes of a server in memory: joining, coming back, renewing, bans."""

import base64
import datetime as dt
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from enforcer.join import spki_of
from mesh import nodeproof
from mesh.problems import Problem
from tests.world import World


def code_of(call: object) -> str:
    assert callable(call)
    with pytest.raises(Problem) as caught:
        call()
    return caught.value.code


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def token(world: World) -> str:
    return str(world.app.create_token(ttl_s=60, actor="test")["token"])


def join(world: World) -> tuple[str, ec.EllipticCurvePrivateKey]:
    key = new_key()
    answer = world.app.join(token(world), spki_of(key))
    return str(dict(answer["facts"])["node:id"]), key


def readmit(
    world: World,
    node: str,
    last: ec.EllipticCurvePrivateKey,
    new: ec.EllipticCurvePrivateKey,
    *,
    signer: ec.EllipticCurvePrivateKey | None = None,
    **other: str,
) -> dict[str, object]:
    nonce = str(world.app.nodes.nonce()["nonce"])
    parts = {"purpose": "readmit", "server_pin": world.app.pins()["server"], "nonce": nonce, "name": node, **other}
    data = nodeproof.statement(parts.pop("purpose"), spki=spki_of(new), **parts)  # type: ignore[arg-type]
    signature = nodeproof.sign_statement(signer or last, data)
    found = world.app.nodes.readmit(node, nonce=nonce, spki=spki_of(new), key=spki_of(last), signature=signature)
    assert isinstance(found, dict)
    return found


def test_a_malformed_key_burns_no_token_and_a_token_joins_one_node(world: World) -> None:
    text, key = token(world), new_key()
    assert code_of(lambda: world.app.join(text, b"x")) == "LM1203"
    first = world.app.join(text, spki_of(key))
    # the answer was lost: the same key may ask again, and is the same node
    assert world.app.join(text, spki_of(key))["facts"] == first["facts"]
    assert code_of(lambda: world.app.join(text, world.spki())) == "LM1208"
    assert len(world.app.nodes.list()) == 1


def test_a_node_comes_back_after_any_time_with_its_last_key_or_the_one_before(world: World) -> None:
    node, first = join(world)
    world.clock.advance(dt.timedelta(days=300))
    world.app.tick()
    second, third = new_key(), new_key()
    answer = readmit(world, node, first, second)
    leaf = x509.load_der_x509_certificate(base64.b64decode(answer["chain"][0]))  # type: ignore[index]
    assert leaf.public_key() == second.public_key()
    # killed before it saved the answer, it proves the first key again; then the third is the present one
    readmit(world, node, first, third)
    assert code_of(lambda: readmit(world, node, second, new_key())) == "LM1242"
    fourth = new_key()
    readmit(world, node, third, fourth)
    # the first key is neither the present nor the previous one any more
    assert code_of(lambda: readmit(world, node, first, new_key())) == "LM1242"
    kinds = [row["event"] for row in world.app.records(after=0, kind="agent", limit=99)]
    assert kinds == ["join", "readmit", "readmit", "readmit"]


def test_a_renewal_moves_the_keys_on(world: World) -> None:
    node, first = join(world)
    second, third = new_key(), new_key()
    chain = world.app.renew_node(node, spki_of(second), hashlib.sha256(spki_of(first)).hexdigest())
    peer = world.app.nodes.authenticate(chain)
    assert (peer.node, peer.spki_sha256) == (node, hashlib.sha256(spki_of(second)).hexdigest())
    assert not peer.is_downstream
    readmit(world, node, first, third)
    assert code_of(lambda: world.app.renew_node("nobody", spki_of(third))) == "LM5230"
    assert code_of(lambda: world.app.renew_node(node, b"x")) == "LM1203"


@pytest.mark.parametrize(
    "other",
    [{"purpose": "join"}, {"server_pin": "sha256:0"}, {"name": "node-else"}, {"nonce": "AAAA"}],
    ids=lambda found: next(iter(found)),
)
def test_a_proof_of_anything_else_is_none(world: World, other: dict[str, str]) -> None:
    node, key = join(world)
    assert code_of(lambda: readmit(world, node, key, new_key(), **other)) == "LM1242"


def test_strangers_and_other_peoples_keys_do_not_come_back(world: World) -> None:
    node, key = join(world)
    before = len(world.app.identities())
    stranger = new_key()
    assert code_of(lambda: readmit(world, node, stranger, stranger)) == "LM1242"
    assert code_of(lambda: readmit(world, node, key, new_key(), signer=stranger)) == "LM1242"
    assert code_of(lambda: readmit(world, "node-0", key, new_key())) == "LM1242"
    assert len(world.app.identities()) == before


def test_a_banned_node_gets_nothing_until_it_is_allowed(world: World) -> None:
    node, key = join(world)
    text, other = token(world), new_key()
    banned_later = world.app.join(text, spki_of(other))
    chain = world.app.renew_node(node, spki_of(key))
    world.app.ban_node(node, reason="lost", actor="test")
    assert code_of(lambda: world.app.authenticate_node(chain)) == "LM1243"
    assert code_of(lambda: world.app.nodes.require(node)) == "LM1243"
    assert code_of(lambda: readmit(world, node, key, new_key())) == "LM1243"
    name = str(dict(banned_later["facts"])["node:id"])
    world.app.ban_node(name, reason="", actor="test")
    assert code_of(lambda: world.app.join(text, spki_of(other))) == "LM1243"
    (row,) = [row for row in world.app.nodes.list() if row["node"] == node]
    assert (row["reason"], row["attestor"]) == ("lost", "join_token")
    world.app.nodes.allow(node, actor="test")
    assert world.app.authenticate_node(chain) == node
    assert code_of(lambda: world.app.ban_node("nobody", reason="", actor="test")) == "LM1244"
    events = [row["event"] for row in world.app.records(after=0, kind="agent", limit=99)]
    assert events == ["join", "join", "ban", "ban", "allow"]


def test_what_a_node_is_its_attestation_says(world: World) -> None:
    facts = (("node:zone", "a"), ("node:dns", "x"), ("node:dns", "y"))
    world.app.nodes.admit("vm.one", attestor="vm", facts=facts, spki=world.spki(), is_fresh=True)
    world.rules('rules:\n- id: z\n  match: {"node:zone": "a", "node:attestor": "vm"}\n  spiffe_id: "/z/{node:id}"\n')
    assert world.issue("vm.one", unix__uid="1").spiffe_id == "spiffe://world.test/z/vm.one"
    # said by the node alone, it is nothing
    joined, _ = join(world)
    assert world.issue(joined, node__zone="a", node__attestor="vm").code == "LM1210"
    # a machine that was set up again counts its batches from one
    world.app.nodes.admit("vm.one", attestor="vm", facts=(), spki=world.spki(), is_fresh=True)
    assert world.app.nodes.facts_of("vm.one") == (("node:id", "vm.one"), ("node:attestor", "vm"))


def test_jobs_that_are_over_are_forgotten_and_hosts_are_not(world: World) -> None:
    def admit(name: str, proof: tuple[str, int] | None) -> None:
        attestor = name.partition(".")[0]
        world.app.nodes.admit(name, attestor=attestor, facts=(), spki=world.spki(), is_fresh=True, proof=proof)

    end = int(world.clock.now().timestamp()) + 999_999
    admit("vm.one", None)
    for name in ("ci.1", "ci.2"):
        admit(name, (name, end))
    world.app.ban_node("ci.2", reason="", actor="test")
    world.clock.advance(dt.timedelta(days=8))
    admit("ci.3", ("ci.3", end))
    assert [row["node"] for row in world.app.nodes.list()] == ["ci.2", "ci.3", "vm.one"]
