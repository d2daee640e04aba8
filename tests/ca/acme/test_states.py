import pytest

from ca.acme import states
from mesh.problems import Conflict


def test_an_order_moves_as_the_rfc_draws_it() -> None:
    status = "pending"
    for event in ("proven", "finalize", "issued"):
        status = states.move(states.ORDER, status, event)
    assert status == "valid"


@pytest.mark.parametrize("status", ["valid", "invalid", "processing", "nothing"])
def test_no_other_step_is_taken(status: str) -> None:
    with pytest.raises(Conflict, match="LM1421"):
        states.move(states.ORDER, status, "finalize")


def test_wildcards_are_proven_by_dns_alone_and_addresses_never() -> None:
    assert states.challenge_types("dns", is_wildcard=True) == ("dns-01",)
    assert "dns-01" not in states.challenge_types("ip", is_wildcard=False)
