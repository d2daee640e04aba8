from limen.agents import Agents
from limen.values import Endpoint

HERE = Endpoint(spiffe_id="spiffe://a/b", address="10.0.0.1", port=1)


def test_listeners_of_absent_agents_are_not_handed_out() -> None:
    agents = Agents()
    agents.of("n1").endpoints = (HERE,)
    assert agents.endpoints() == ()
    agents.of("n1").watches = 1
    assert agents.endpoints() == (HERE,)


def test_agents_are_listed_by_name() -> None:
    agents = Agents()
    agents.of("b")
    agents.of("a")
    assert [item.node for item in agents.all()] == ["a", "b"]
