from enforcer.budget import BURST, MAX_STREAMS, MESSAGES_PER_S, Budget


def test_streams_are_counted_by_user_and_given_back() -> None:
    budget = Budget()
    assert all(budget.take_stream(1) for _ in range(MAX_STREAMS))
    assert not budget.take_stream(1)
    assert budget.take_stream(2)
    budget.give_stream(1)
    assert budget.take_stream(1)


def test_messages_are_bounded_in_bursts_and_over_time() -> None:
    budget = Budget()
    assert all(budget.take_message(1, 0.0) for _ in range(int(BURST)))
    assert not budget.take_message(1, 0.0)
    assert budget.take_message(2, 0.0)
    assert sum(budget.take_message(1, 1.0) for _ in range(1000)) == MESSAGES_PER_S


def test_users_who_are_silent_are_forgotten() -> None:
    budget = Budget()
    for uid in range(4096):
        budget.take_message(uid, 0.0)
    budget.take_message(5000, 60.0)
    assert len(budget._buckets) == 1
