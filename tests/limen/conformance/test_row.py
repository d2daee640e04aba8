import pytest

from limen.conformance.row import Result, each, row


@pytest.mark.parametrize(("good", "result"), [(True, Result.PASS), (False, Result.FAIL), (None, Result.NOT_APPLICABLE)])
def test_what_was_not_given_neither_passes_nor_fails(good: bool | None, result: Result) -> None:
    assert row("E-1", "M", "words", good).result is result


def test_every_one_has_to_pass_and_there_has_to_be_one() -> None:
    def check(items: list[int]) -> Result:
        return each("E-1", "M", "words", items, lambda item: 6 / item > 1, str).result

    assert [check([1, 2]), check([1, 6]), check([1, 0]), check([])] == [
        Result.PASS, Result.FAIL, Result.FAIL, Result.NOT_APPLICABLE,
    ]  # fmt: skip


def test_what_was_seen_is_bounded_and_ids_sort_by_number() -> None:
    assert len(row("E-1", "M", "words", True, "x" * 1000).seen) == 200
    assert min([row("E-10", "M", "", True), row("E-9", "M", "", True)], key=lambda item: item.order).id == "E-9"
