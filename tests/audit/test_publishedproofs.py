import pytest

from audit.merkle import verify_consistency, verify_inclusion
from tests.audit.publishedproofs import (
    CONSISTENCY,
    INCLUSION,
    Consistency,
    Inclusion,
    wrong_consistency,
    wrong_inclusion,
)


def includes(case: Inclusion) -> bool:
    return verify_inclusion(case.leaf, case.index, case.size, case.proof, case.root)


def follows(case: Consistency) -> bool:
    return verify_consistency(case.old, case.new, case.old_root, case.new_root, case.proof)


@pytest.mark.parametrize("number", range(4))
def test_a_published_proof_of_inclusion_holds_and_every_published_change_of_it_does_not(number: int) -> None:
    assert includes(INCLUSION[number])
    wrong = dict(wrong_inclusion(INCLUSION[number]))
    assert [name for name, case in wrong.items() if includes(case)] == []
    assert len(wrong) == 14 + len(INCLUSION[number].proof)


@pytest.mark.parametrize("number", range(4))
def test_a_published_proof_of_consistency_holds_and_every_published_change_of_it_does_not(number: int) -> None:
    assert follows(CONSISTENCY[number])
    wrong = dict(wrong_consistency(CONSISTENCY[number]))
    assert [name for name, case in wrong.items() if follows(case)] == []
    assert len(wrong) == 17 + len(CONSISTENCY[number].proof)
