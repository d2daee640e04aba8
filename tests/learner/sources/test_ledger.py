from learner.sources.ledger import MAX_EXAMPLES, MAX_REASONS, OTHER_REASONS
from tests.learner.sources.accounts import ledger


def test_reasons_and_examples_are_bounded_and_nothing_is_uncounted() -> None:
    account = ledger()
    for index in range(1000):
        account.skip(f"link type {index}")
        account.mark_ambiguous(f"a:{index} - b:1")
    assert sum(account.skipped.values()) == account.ambiguous == 1000
    assert len(account.skipped) == MAX_REASONS + 1
    assert account.skipped[OTHER_REASONS] == 1000 - MAX_REASONS
    assert len(account.ambiguous_examples) == MAX_EXAMPLES


def test_the_worst_sampling_stays_and_an_unknown_rate_is_the_worst() -> None:
    account = ledger()
    assert account.is_complete
    account.mark_sampled(100)
    account.mark_sampled(10)
    assert account.sampled == 100
    account.mark_sampled(0)
    account.mark_sampled(100)
    assert account.sampled == 0
    assert not account.is_complete


def test_every_limit_is_said() -> None:
    account = ledger()
    assert account.limits() == []
    account.mark_sampled(8)
    account.lost, account.gaps, account.cut, account.unreadable, account.seen = 1, 2, 3, 4, 9
    account.mark_ambiguous("a:1 - b:2 tcp")
    assert len(account.limits()) == 6
    assert account.to_json()["ambiguous_examples"] == ["a:1 - b:2 tcp"]
