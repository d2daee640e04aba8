import datetime as dt

from limen.agents import AWAY, Agents
from limen.values import Endpoint

HERE = Endpoint(spiffe_id="spiffe://a/b", address="10.0.0.1", port=1)
NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)


def test_listeners_of_absent_agents_are_not_handed_out() -> None:
    agents = Agents()
    agents.of("n1").endpoints = (HERE,)
    assert agents.endpoints() == ()
    agents.begin("n1")
    assert agents.endpoints() == (HERE,)
    # without sidecars nobody listens any more
    agents.end("n1", NOW)
    assert agents.endpoints() == ()


def test_an_agent_that_fell_counts_until_it_had_time_to_come_back() -> None:
    agents = Agents()
    agents.begin("n1")
    agents.of("n1").endpoints, agents.of("n1").sidecars = (HERE,), 1
    agents.end("n1", NOW)
    assert (agents.endpoints(), [item.node for item in agents.live()]) == ((HERE,), ["n1"])
    assert not agents.forget(NOW + AWAY - dt.timedelta(seconds=1))
    assert agents.endpoints() == (HERE,)
    assert agents.forget(NOW + AWAY)
    assert (agents.endpoints(), agents.live()) == ((), [])
    assert not agents.forget(NOW + AWAY)


def test_one_that_came_back_in_time_is_not_forgotten() -> None:
    agents = Agents()
    agents.expect("n1", NOW)
    agents.begin("n1")
    assert not agents.forget(NOW + AWAY)
    agents.expect("n1", NOW)
    assert not agents.forget(NOW + AWAY)
    assert [item.node for item in agents.live()] == ["n1"]


def test_nothing_of_a_dismissed_agent_counts() -> None:
    agents = Agents()
    agents.begin("n1")
    agents.of("n1").endpoints, agents.of("n1").sidecars = (HERE,), 1
    agents.dismiss("n1")
    agents.end("n1", NOW)
    assert (agents.endpoints(), agents.live()) == ((), [])


def test_listeners_are_taken_in_full_and_a_change_is_said() -> None:
    agents = Agents()
    assert [agents.listens("n1", (HERE,)), agents.listens("n1", (HERE,)), agents.listens("n1", ())] == [
        True,
        False,
        True,
    ]
    assert agents.of("n1").endpoints == ()


def test_agents_are_listed_by_name() -> None:
    agents = Agents()
    agents.of("b")
    agents.of("a")
    assert [item.node for item in agents.all()] == ["a", "b"]
