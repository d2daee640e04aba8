"""What the tests of releases share: a small world of services, reviewers with keys, and signed chains."""

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh.request import Effect
from mesh.spiffe import SpiffePattern, TrustDomain
from policyengine import dsse
from policyengine.model import Policy, PolicySet, Port, Principal, Rule, Service
from policyengine.review import Activation, Statement, sign_approval
from policyengine.reviewers import Reviewer, ReviewerSet, sign_set
from policyengine.snapshot import Snapshot

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
TRUST_DOMAIN = TrustDomain.parse("corp.test")


def service(name: str, owner: str = "", **fields: object) -> Service:
    """A service with one http port, 8080."""
    standard: dict[str, object] = {
        "name": name,
        "owner": owner,
        "identities": (SpiffePattern.parse(f"spiffe://corp.test/ns/shop/sa/{name}"),),
        "ports": (Port(port=8080, protocol="http"),),
    }
    return Service(**{**standard, **fields})  # type: ignore[arg-type]  # a test's shorthand


def rule(id_: str, *callers: str, effect: Effect = Effect.ALLOW, **fields: object) -> Rule:
    """An allow from callers; `cart` is short for its SPIFFE ID."""
    return Rule(
        id=id_,
        effect=effect,
        from_=tuple(
            Principal.parse(text if ":" in text or text == "any" else f"spiffe://corp.test/ns/shop/sa/{text}")
            for text in callers
        ),
        **fields,  # type: ignore[arg-type]  # a test's shorthand
    )


def policy(service_name: str, *rules: Rule, **fields: object) -> Policy:
    """An app-tier policy about a service."""
    standard: dict[str, object] = {
        "name": f"{service_name}-app",
        "owner": "",
        "service": service_name,
        "tier": "app",
        "rules": rules,
    }
    return Policy(**{**standard, **fields})  # type: ignore[arg-type]  # a test's shorthand


@dataclasses.dataclass(frozen=True)
class Releases:
    """Keys, reviewers and releases to try attacks with."""

    now: dt.datetime
    trust_domain: TrustDomain
    keys: dict[str, Ed25519PrivateKey]
    judges: ReviewerSet
    chain: tuple[dsse.Envelope, ...]

    def snapshot(self, *callers: str, **fields: object) -> Snapshot:
        """A release in which the callers may call `db` (of team-data); `web` (of team-web) is open to nobody."""
        policies = PolicySet(
            services=(service("db", "team-data"), service("web", "team-web")),
            policies=(policy("db", rule("orders", *callers)),),
        )
        standard: dict[str, object] = {
            "trust_domain": self.trust_domain,
            "policies": policies,
            "reviewer_set": self.judges.hash,
        }
        return Snapshot(**{**standard, **fields})  # type: ignore[arg-type]  # a test's shorthand

    def approve(self, name: str, snapshot: str, predecessor: str | None, **fields: object) -> dsse.Envelope:
        """An approval by the reviewer of this name."""
        standard: dict[str, object] = {
            "trust_domain": self.trust_domain,
            "snapshot": snapshot,
            "predecessor": predecessor,
            "expires": self.now + dt.timedelta(days=1),
        }
        statement = Statement(**{**standard, **fields})  # type: ignore[arg-type]  # a test's shorthand
        return sign_approval(statement, self.keys[name])

    def activation(
        self, proposed: Snapshot, before: Snapshot | None, approvals: Sequence[dsse.Envelope], **fields: object
    ) -> Activation:
        """A forward activation, epoch 2."""
        standard: dict[str, object] = {
            "epoch": 2,
            "snapshot": proposed.hash,
            "predecessor": None if before is None else before.hash,
            "approvals": tuple(approvals),
            "activated": self.now,
        }
        return Activation(**{**standard, **fields})  # type: ignore[arg-type]  # a test's shorthand


@pytest.fixture(scope="session")
def releases() -> Releases:
    """Two of `dana` (team-data), `wim` (team-web) and `olga` (no team); `rita` holds the recovery key."""
    names = ("dana", "wim", "olga", "rita", "mallory")
    keys = {name: Ed25519PrivateKey.from_private_bytes(bytes([index + 1]) * 32) for index, name in enumerate(names)}
    teams = {"dana": ("team-data",), "wim": ("team-web",), "olga": ()}
    judges = ReviewerSet(
        trust_domain=TRUST_DOMAIN,
        version=1,
        threshold=2,
        reviewers=tuple(
            Reviewer(name=name, public_key=dsse.public_bytes(keys[name]), teams=held) for name, held in teams.items()
        ),
        recovery_key=dsse.public_bytes(keys["rita"]),
    )
    chain = (sign_set(judges, [keys["dana"]]),)
    return Releases(now=NOW, trust_domain=TRUST_DOMAIN, keys=keys, judges=judges, chain=chain)


@pytest.fixture(scope="session")
def make_service() -> Any:
    """Build a service with one http port."""
    return service


@pytest.fixture(scope="session")
def make_rule() -> Any:
    """Build an allow from callers."""
    return rule


@pytest.fixture(scope="session")
def make_policy() -> Any:
    """Build an app-tier policy."""
    return policy
