from learner.propose import propose, written
from learner.replay import would_deny
from tests.learner import worlds
from tests.learner.worlds import NS, START, flow


def test_the_exact_list_of_what_would_have_been_denied() -> None:
    policies = written(propose(worlds.shop()).services)
    held = [
        *worlds.shop(days=1),
        flow("web", "orders", START, path="/orders/1", connections=3),
        flow("web", "cart", START, path="/admin"),
        flow(None, "cart", START, path="/healthz"),
    ]
    total, rows = would_deny(policies, held)
    assert total == len(worlds.shop(days=1)) + 5
    assert [(row["source"], row["path"], row["connections"]) for row in rows] == [
        (f"{NS}web", "/orders/1", 3),
        (f"{NS}web", "/admin", 1),
        ("10.0.0.9", "/healthz", 1),
    ]
    assert all(row["code"] for row in rows)


def test_what_was_learned_is_not_denied() -> None:
    flows = worlds.shop()
    assert would_deny(written(propose(flows).services), flows)[1] == []
