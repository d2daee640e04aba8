import dataclasses
import json

from enforcer.jwtapi import bundles_message
from tests.enforcer.test_workloadapi import Provider

JWK = b'{"crv":"P-256","kid":"k","kty":"EC","x":"AA","y":"AA"}'


def test_W_15_a_jwt_bundle_holds_jwt_authorities_alone() -> None:
    provider = Provider()
    every = provider.bundles()
    every["corp.test"] = dataclasses.replace(every["corp.test"], jwt_authorities=(JWK,))
    every["stranger.test"] = provider.other
    found = bundles_message([provider.identity("/a", "")], every).bundles
    assert sorted(found) == ["spiffe://corp.test", "spiffe://other.test"]  # W-13
    assert json.loads(found["spiffe://corp.test"])["keys"] == [{**json.loads(JWK), "use": "jwt-svid"}]
    assert json.loads(found["spiffe://other.test"])["keys"] == []
