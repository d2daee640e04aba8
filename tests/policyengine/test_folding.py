import pytest

from policyengine.folding import Words, enclosing, folded, sharing

ID = "spiffe://corp.test/"


def words(source: str, *because: str, **fields: object) -> Words:
    standard: dict[str, object] = {"methods": ("GET",), "paths": ("/o",), "when": {}}
    return Words(source=ID + source, because=because, **{**standard, **fields})  # type: ignore[arg-type]  # its fields


def test_rows_that_share_a_rule_and_name_more_than_so_many_others_go_together() -> None:
    reasons = [("g/d", "p/a"), ("g/d", "p/b"), ("p/x",), ("g/d", "p/c"), ("g/d", "p/a")]
    assert sharing([1] * 5, reasons, 2) == [[0, 1, 3, 4]]
    assert sharing([1] * 5, reasons, 3) == []


def test_rows_of_other_keys_stay_apart() -> None:
    reasons = [("g/d", "p/a"), ("g/d", "p/b"), ("g/d", "p/c"), ("g/d", "p/d")]
    assert sharing([1, 1, 2, 2], reasons, 1) == [[0, 1], [2, 3]]
    assert sharing([1, 2, 3, 4], reasons, 1) == []


def test_a_row_goes_with_the_rule_that_most_share_and_with_one_alone() -> None:
    reasons = [("g/d", "p/a"), ("g/d", "p/b"), ("g/e", "p/b"), ("g/e", "p/c"), ("g/e", "p/a")]
    assert sharing([1] * 5, reasons, 1) == [[2, 3, 4], [0, 1]]


def test_rows_that_share_no_rule_stay_apart() -> None:
    assert sharing([1] * 30, [(f"p/{place}",) for place in range(30)], 2) == []


def test_a_folded_row_names_what_all_share_and_of_each_what_is_its_own() -> None:
    found = folded(
        [
            words("b", "g/d", "p/b", paths=("/b",), when={"path_not_in": ["/b/x"], "headers": {"x-t": ["a"]}}),
            words("a", "g/d", "p/a", methods=("PUT",), when={"headers": {"x-t": ["a"]}, "source_not_in": [ID + "a/c"]}),
        ]
    )
    assert found == Words(
        source=ID + "**",
        methods=("GET", "PUT"),
        paths=("/b", "/o"),
        when={
            "headers": {"x-t": ["a"]},
            "by_source": [
                {"source": ID + "a", "methods": ["PUT"], "paths": ["/o"], "source_not_in": [ID + "a/c"],
                 "because": ["p/a"]},
                {"source": ID + "b", "methods": ["GET"], "paths": ["/b"], "path_not_in": ["/b/x"],
                 "because": ["p/b"]},
            ],
        },
        because=("g/d",),
    )  # fmt: skip


def test_rows_of_one_caller_keep_its_name() -> None:
    found = folded([words("a", "g/d", "p/a"), words("a", "g/d", "p/b", methods=("*",))])
    assert (found.source, found.methods) == (ID + "a", ("*",))
    assert found.when["by_source"] == [
        {"source": ID + "a", "methods": ["GET"], "because": ["p/a"]},
        {"source": ID + "a", "methods": ["*"], "because": ["p/b"]},
    ]


def test_hosts_are_said_with_the_hosts_that_they_leave_out() -> None:
    found = folded(
        [
            words("a", "g/d", "p/a", when={"hosts": ["*"], "host_not_in": ["a.test"]}),
            words("b", "g/d", "p/b", when={"hosts": ["*"]}),
        ]
    )
    assert found.when == {
        "by_source": [
            {"source": ID + "a", "hosts": ["*"], "host_not_in": ["a.test"], "because": ["p/a"]},
            {"source": ID + "b", "hosts": ["*"], "because": ["p/b"]},
        ]
    }


ENCLOSING = [
    (["spiffe://a.test/x/y", "spiffe://a.test/x/z"], "spiffe://a.test/x/**"),
    (["spiffe://a.test/x/y/**", "spiffe://a.test/x/y/z"], "spiffe://a.test/x/y/**"),
    (["spiffe://a.test/x/y/**", "spiffe://a.test/x/y"], "spiffe://a.test/x/**"),
    (["spiffe://a.test/x", "spiffe://a.test/y"], "spiffe://a.test/**"),
    (["spiffe://a.test/xy/z", "spiffe://a.test/x/z"], "spiffe://a.test/**"),
    (["spiffe://a.test/x", "spiffe://b.test/x"], "any"),
    (["spiffe://a.test/x/**", "any"], "any"),
]


@pytest.mark.parametrize(("names", "pattern"), ENCLOSING, ids=lambda item: item if isinstance(item, str) else "")
def test_what_encloses_patterns(names: list[str], pattern: str) -> None:
    assert enclosing(names) == enclosing(names[::-1]) == pattern
