"""A server in memory: `limen.app.App` with in-memory rims and a clock that stands still.

It wires and nothing else: no decision, rotation or routing of its own.
"""

import dataclasses
import datetime as dt
import hashlib
import os
import pathlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from limen.app import App
from limen.opening import open_app
from limen.values import Ask, Issued
from mesh.clock import ManualClock
from mesh.spiffe import TrustDomain
from policyengine import dsse
from policyengine.loader import load_text
from policyengine.model import PolicySet
from policyengine.review import APPROVAL_LIFETIME, Statement, sign_approval
from policyengine.reviewers import Reviewer, ReviewerSet

START = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DOMAIN = "world.test"
RULES = 'rules:\n- id: user\n  match: {"unix:uid": "1000"}\n  spiffe_id: "/user/{unix:uid}"\n'
TREE = """
apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: team-data}
spec:
  identities: ["spiffe://world.test/ns/shop/sa/db"]
  ports: [{port: 8080, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: shop-db, owner: team-data}
spec:
  service: db
  tier: app
  rules:
  - id: orders
    effect: allow
    from: ["spiffe://world.test/ns/shop/sa/cart"]
    to: [{methods: [GET], paths: ["/orders/{id:int}"]}]
"""


@dataclasses.dataclass(slots=True, kw_only=True)
class World:
    """A server without doors."""

    app: App
    clock: ManualClock
    state: pathlib.Path
    keys: dict[str, Ed25519PrivateKey]

    def spki(self) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def join(self) -> str:
        """Join a node and return its name."""
        token = self.app.create_token(ttl_s=60, actor="test")["token"]
        before = {row["node"] for row in self.app.nodes.list()}
        answer = self.app.join(token, self.spki())
        assert answer["trust_domain"] == DOMAIN
        (node,) = {row["node"] for row in self.app.nodes.list()} - before
        return str(node)

    def rules(self, text: str) -> None:
        (self.state / "identities.yaml").write_text(text, "utf-8")

    def issue(self, node: str, **facts: str) -> Issued:
        pairs = tuple((name.replace("__", ":"), value) for name, value in facts.items())
        return self.app.issue(node, [Ask(ref="1", spki=self.spki(), facts=pairs)])[0]

    def policies(self, text: str = TREE) -> PolicySet:
        found, findings = load_text(text, "tree.yaml")
        assert not [item for item in findings if item.severity == "error"]
        return found

    def publish(self, text: str = TREE, names: tuple[str, ...] = ("ada", "grace")) -> str:
        """Propose, approve and activate; return the snapshot's hash."""
        active = self.app.active_snapshot()
        predecessor = active["hash"] if active else None
        body = {"policies": self.policies(text).to_json(), "predecessor": predecessor}
        review = self.app.propose(body, actor="test")
        for name in names:
            self.approve(review, name)
        return str(self.app.move_review(review["id"], "activate", actor="test")["snapshot"])

    def approve(self, review: dict[str, object], name: str) -> None:
        statement = Statement(
            trust_domain=TrustDomain(DOMAIN),
            snapshot=str(review["snapshot"]),
            predecessor=review["predecessor"],  # type: ignore[arg-type]
            expires=self.clock.now() + APPROVAL_LIFETIME,
        )
        envelope = sign_approval(statement, self.keys[name])
        self.app.approve(str(review["id"]), envelope.to_json(), actor=name)


def make_world(folder: pathlib.Path) -> World:
    """A world with two reviewers, both of whom have to sign."""
    from mesh import canonicaljson
    from mesh.settings import prepare_state

    prepare_state(folder)
    clock = ManualClock(START)
    keys = {
        name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()) for name in ("ada", "grace")
    }
    judges = ReviewerSet(
        trust_domain=TrustDomain(DOMAIN),
        version=1,
        threshold=2,
        reviewers=tuple(
            Reviewer(name=name, public_key=dsse.public_bytes(key), teams=("*",)) for name, key in keys.items()
        ),
    )
    file = folder / f"reviewers-{os.getpid()}.json"
    file.write_bytes(canonicaljson.dumps(judges.to_json()))
    app = open_app(folder, trust_domain=DOMAIN, database=None, reviewers=file, clock=clock)
    return World(app=app, clock=clock, state=folder, keys=keys)
