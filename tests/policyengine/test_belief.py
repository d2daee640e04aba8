import dataclasses
import json

import pytest

from policyengine.belief import beliefs_between, unbelieved
from policyengine.issuer import Issuer
from policyengine.model import PolicySet
from tests.policyengine.corners import CLAIM_ADMIN, allow, deny, tree

IDP = "https://idp.test"


def key(kid: str) -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": "AA"}


def issuer(*kids: str, **fields: object) -> Issuer:
    keys = json.dumps({"keys": [key(kid) for kid in kids]}) if kids else None
    standard = Issuer(
        name="idp", owner="", issuer=IDP, audiences=("a",), jwks_uri=None if kids else f"{IDP}/keys", keys=keys
    )
    return dataclasses.replace(standard, **fields)  # type: ignore[arg-type]  # fields of it


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, issuer("a"), ("now",)),
        (issuer("a"), None, ("before",)),
        (issuer("a"), issuer("a"), None),
        (issuer("a", "b"), issuer("b", "a"), None),
        (issuer("a", "b"), issuer("a", "b", "c"), ("both", "now")),
        (issuer("a", "b", "c"), issuer("a", "b"), ("both", "before")),
        # a token that names no key counts only beside a single one
        (issuer("a"), issuer("a", "b"), ("both", "before", "now")),
        (issuer("a"), issuer("b"), ("before", "now")),
        (issuer("a"), issuer(), ("both", "before", "now")),
        (issuer(), issuer(jwks_uri="https://b.test/keys"), ("both", "before", "now")),
        (issuer(), issuer(ca="x"), ("both", "before", "now")),
        (issuer(), issuer(bind=("subject",)), ("both", "before")),
        (issuer(bind=("actor",)), issuer(bind=("subject",)), ("both", "before", "now")),
        (issuer(algorithms=("ES256",)), issuer(algorithms=("RS256",)), ("before", "now")),
        (issuer(leeway_s=5), issuer(leeway_s=6), ("both", "now")),
        (issuer(), issuer(name="other", owner="b"), None),
    ],
)
def test_names_the_kinds_of_tokens_that_there_may_be(
    old: Issuer | None, new: Issuer | None, expected: tuple[str, ...] | None
) -> None:
    sides = (PolicySet(issuers=() if side is None else (side,)) for side in (old, new))
    assert beliefs_between(*sides) == ({} if expected is None else {IDP: expected})


def test_no_token_of_an_issuer_that_nothing_declares_is_believed() -> None:
    said = {"claims": {"issuer": "authzen:user", "role": ["editor"]}}
    policies = tree(app=[allow(when=CLAIM_ADMIN), deny(unless={"when": CLAIM_ADMIN}), allow(when=said)])
    assert unbelieved(policies) == {IDP: ()}
    assert unbelieved(dataclasses.replace(policies, issuers=(issuer(),))) == {}
    assert unbelieved(dataclasses.replace(policies, issuers=(issuer(issuer=f"{IDP}/"),))) == {IDP: ()}
    assert unbelieved(tree(app=[allow()])) == {}
