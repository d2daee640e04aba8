import pytest

from enforcer.x509api import bundles_message, svids_message
from tests.enforcer.test_workloadapi import Provider


@pytest.mark.parametrize("count", [1, 3], ids=["W-7-one", "W-7-all"])
def test_every_svid_is_in_the_message(count: int) -> None:
    provider = Provider()
    found = [provider.identity(f"/{number}", "same") for number in range(count)]
    message = svids_message(found, provider.bundles())
    assert [item.spiffe_id for item in message.svids] == [f"spiffe://corp.test/{number}" for number in range(count)]
    assert [item.hint for item in message.svids] == ["same", "", ""][:count]
    assert dict(message.federated_bundles) == {"spiffe://other.test": provider.other.x509_authorities[0]}


def test_W_13_bundles_are_the_own_and_those_of_the_rule() -> None:
    provider = Provider()
    every = {**provider.bundles(), "stranger.test": provider.other}
    message = bundles_message([provider.identity("/a", "")], every)
    assert sorted(message.bundles) == ["spiffe://corp.test", "spiffe://other.test"]
