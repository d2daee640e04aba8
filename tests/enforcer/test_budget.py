from enforcer.budget import BURST, MAX_STREAMS, MESSAGES_PER_S, SHARE, Budget

ONE, TWO, THREE = (1, 10), (2, 20), (3, 30)


def streams(budget: Budget, uid: int, process: tuple[int, int]) -> int:
    """How many it gets."""
    count = 0
    while budget.take_stream(uid, process):
        count += 1
    return count


def messages(budget: Budget, uid: int, process: tuple[int, int], now: float) -> int:
    count = 0
    while budget.take_message(uid, process, now):
        count += 1
    return count


def test_a_process_has_a_half_of_its_users_streams_and_gives_them_back() -> None:
    budget = Budget()
    assert streams(budget, 1, ONE) == MAX_STREAMS * SHARE
    # another process of the same user is served, and a third one leaves the user nothing more
    assert streams(budget, 1, TWO) == MAX_STREAMS * SHARE
    assert streams(budget, 1, THREE) == 0
    # another user is served whatever that one holds
    assert streams(budget, 2, (4, 40)) == MAX_STREAMS * SHARE
    budget.give_stream(1, ONE)
    assert streams(budget, 1, ONE) == 1


def test_a_number_that_was_used_again_is_another_process() -> None:
    budget = Budget()
    streams(budget, 1, ONE)
    assert streams(budget, 1, (ONE[0], 11)) == MAX_STREAMS * SHARE


def test_messages_are_bounded_in_bursts_and_over_time() -> None:
    budget = Budget()
    assert messages(budget, 1, ONE, 0.0) == BURST * SHARE
    assert messages(budget, 1, TWO, 0.0) == BURST * SHARE
    assert messages(budget, 1, THREE, 0.0) == 0
    assert messages(budget, 2, (4, 40), 0.0) == BURST * SHARE
    # over time a process has a half of the user's rate, and all of them together the whole
    assert messages(budget, 1, ONE, 1.0) == MESSAGES_PER_S * SHARE
    assert messages(budget, 1, TWO, 1.0) + messages(budget, 1, THREE, 1.0) == MESSAGES_PER_S * SHARE


def test_what_a_process_is_refused_costs_its_user_nothing() -> None:
    budget = Budget()
    messages(budget, 1, ONE, 0.0)
    for _ in range(1000):
        assert not budget.take_message(1, ONE, 0.0)
    assert messages(budget, 1, TWO, 0.0) == BURST * SHARE


def test_who_is_silent_is_forgotten() -> None:
    budget = Budget()
    for number in range(2048):
        budget.take_message(number, (number, 1), 0.0)
    budget.take_message(5000, (5000, 1), 60.0)
    assert len(budget._buckets) == 2
