"""Opens what an authority stands on, by the words of a command line: where its keys are, and who is above it."""

from __future__ import annotations

import pathlib

import sqlalchemy as sa

from ca.disksource import DiskKeys
from ca.keyledger import LedgeredKeys
from ca.keysource import DatabaseKeys, KeySource, MemoryKeys
from ca.pkcs11source import TokenKeys
from ca.pkcs11token import Token
from ca.pkcs11uri import parse_token_uri
from ca.upstream.chain import Upstream
from ca.upstream.local import LIFE, open_disk
from ca.upstream.offline import OfflineUpstream
from ca.upstream.spec import parse_life, parse_upstream
from ca.upstream.spire import SpireUpstream
from ca.upstream.stepca import StepCaUpstream
from limen.above import open_above
from mesh.clock import Clock
from mesh.problems import Invalid
from mesh.spiffe import TrustDomain
from mesh.wrapping import WrappingKey

FOLDER = "ca"


def open_key_source(text: str, *, engine: sa.Engine, wrapping: WrappingKey, clock: Clock) -> LedgeredKeys:
    """`database`, `memory`, `disk:DIR`, or a PKCS#11 URI.

    Raises Invalid LM1620 for anything else, and what the source raises.
    """
    kind, _, rest = text.partition(":")
    source: KeySource
    if text == "database":
        source = DatabaseKeys(engine, wrapping)
    elif text == "memory":
        source = MemoryKeys()
    elif kind == "disk" and rest.startswith("/"):
        source = DiskKeys(pathlib.Path(rest), wrapping)
    elif kind == "pkcs11":
        source = TokenKeys(Token(parse_token_uri(text)))
    else:
        raise Invalid("LM1620", given=text)
    return LedgeredKeys(source, engine, clock)


def open_upstream(
    text: str, *, trust_domain: TrustDomain, state: pathlib.Path, wrapping: WrappingKey, clock: Clock
) -> Upstream | None:
    """Who signs issuing certificates; None for a root of our own, which the authority keeps itself.

    Raises Invalid LM1610 for anything else, and what the upstream raises when its files or addresses are none.
    """
    kind, facts = parse_upstream(text)
    life = parse_life(facts["life"]) if "life" in facts else None
    if kind == "offline":
        return OfflineUpstream(state / FOLDER, trust_domain)
    if kind == "disk":
        return open_disk(
            trust_domain,
            certificates=pathlib.Path(facts["cert"]),
            key=facts["key"],
            bundle=pathlib.Path(facts["bundle"]) if "bundle" in facts else None,
            passphrase=pathlib.Path(facts["passphrase"]) if "passphrase" in facts else None,
            life=life or LIFE,
        )
    if kind == "step-ca":
        return StepCaUpstream(
            trust_domain,
            url=facts["url"],
            roots=pathlib.Path(facts["root"]),
            provisioner=facts["provisioner"],
            key=pathlib.Path(facts["key"]),
        )
    if kind == "limen":
        return open_above(
            state / FOLDER / "above",
            wrapping,
            url=facts["url"],
            token=pathlib.Path(facts["token"]) if "token" in facts else None,
            trust_domain=trust_domain,
            clock=clock,
        )
    if kind == "spire":
        return SpireUpstream(
            trust_domain,
            address=facts["address"],
            workload_api=facts["workload-api"],
            clock=clock,
            spiffe_id=facts.get("spiffe-id", ""),
            life=life,
        )
    return None
