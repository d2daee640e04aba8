import dataclasses

import pytest

from mesh.request import Decision, Effect, Mode, NearestMiss, Request


def test_a_request_without_details_is_l4() -> None:
    request = Request(service="db", port=5432, protocol="tcp")
    assert (request.source, request.method, request.headers, request.unknown) == (None, None, (), frozenset())
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("effect", list(Effect))
def test_only_allow_goes_through(effect: Effect) -> None:
    decision = Decision(
        effect=effect, policy_effect=effect, mode=Mode.ENFORCE, snapshot="", tier="", policy="", rule="", code="LM2300"
    )
    assert decision.is_allowed is (effect is Effect.ALLOW)


def test_a_nearest_miss_names_its_fix() -> None:
    assert NearestMiss(policy="p", rule="r", differs=("method",), fix="add POST").fix == "add POST"
