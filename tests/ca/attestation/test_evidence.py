import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.attestation.evidence import collect, node_name
from ca.issuance import node_id
from mesh.problems import Forbidden
from mesh.spiffe import TrustDomain


@pytest.mark.parametrize(
    ("template", "value", "name"),
    [
        ("{x}", "web-1", r"vm\.web-1"),
        ("ci-{x}", "7", r"vm\.ci-7"),
        ("{x}", "a.b", r"vm\.a-b\.[0-9a-f]{20}"),
        ("{x}", "org/repo", r"vm\.org-repo\.[0-9a-f]{20}"),
        ("{x}", "é" * 80, r"vm\.-\.[0-9a-f]{20}"),
        ("{x}-{x}", "a", r"vm\.a-a\.[0-9a-f]{20}"),
    ],
)
def test_a_name_is_plain_where_it_can_be(template: str, value: str, name: str) -> None:
    assert re.fullmatch(name, node_name("vm", template, (("node:x", value),)))


@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z][a-z0-9-]{0,14}", fullmatch=True), st.text(min_size=1), st.text(min_size=1)),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_different_evidence_never_has_one_name(found: list[tuple[str, str, str]]) -> None:
    names = {node_name(name, "{x}-{y}", (("node:x", x), ("node:y", y))) for name, x, y in found}
    singles = {(name, x): node_name(name, "{x}", (("node:x", x),)) for name, x, _ in found}
    assert len(names) == 2
    assert len(set(singles.values())) == len(singles)
    for name in [*names, *singles.values()]:
        # a join token's node has no dot
        assert "." in name
        node_id(TrustDomain("td"), name)


@pytest.mark.parametrize("facts", [(), (("node:x", "a"), ("node:x", "b")), (("x", "a"),)], ids=["none", "two", "other"])
def test_a_field_has_one_value(facts: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(Forbidden, match="LM1259"):
        node_name("vm", "{x}", facts)


def test_facts_are_collected_and_bounded() -> None:
    assert collect({"a": "1", "b": ["2", "3", ""], "c": None}) == (("node:a", "1"), ("node:b", "2"), ("node:b", "3"))
    for bad in ({"a": "x" * 1025}, {"a": ["x"] * 65}):
        with pytest.raises(ValueError, match="than"):
            collect(bad)  # type: ignore[arg-type]
