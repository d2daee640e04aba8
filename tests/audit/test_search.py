import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.record import read_record
from audit.search import Query, is_about, parse_identity, search
from mesh.problems import Invalid
from tests.audit.making import START, make
from tests.examples import examples

CART, DB = "spiffe://a/ns/shop/sa/cart", "spiffe://a/ns/shop/sa/db"
DENIED = make(5, caller=CART, destination=DB, code="LM2302", decision="deny")
APPROVED = make(6, reviewers=["ada"], key_ids=["k1"], event="approve").replace(b'"kind":"decision"', b'"kind":"review"')
ISSUED = make(7, spiffe_id=CART).replace(b'"kind":"decision"', b'"kind":"issuance"')
ALL = [(0, DENIED), (1, APPROVED), (2, ISSUED)]


def found(query: Query) -> list[int]:
    return [index for index, _ in search(ALL, query)]


@pytest.mark.parametrize(
    ("query", "indexes"),
    [
        pytest.param(Query(), [0, 1, 2], id="nothing-asked"),
        pytest.param(Query(identity=parse_identity(CART)), [0, 2], id="identity-as-caller-or-issued"),
        pytest.param(Query(identity=parse_identity(DB)), [0], id="identity-as-destination"),
        pytest.param(Query(identity=parse_identity("spiffe://a/ns/shop/**")), [0, 2], id="identity-pattern"),
        pytest.param(Query(identity=parse_identity("spiffe://a/ns/sho/**")), [], id="no-part-of-a-segment"),
        pytest.param(Query(service="db"), [0], id="service-by-name"),
        pytest.param(Query(service=DB), [0], id="service-by-id"),
        pytest.param(Query(service="b"), [], id="no-part-of-a-name"),
        pytest.param(Query(code="LM2302"), [0], id="code"),
        pytest.param(Query(decision="deny"), [0], id="decision"),
        pytest.param(Query(decision="allow"), [], id="other-decision"),
        pytest.param(Query(reviewer="ada"), [1], id="reviewer-by-name"),
        pytest.param(Query(reviewer="k1"), [1], id="reviewer-by-key"),
        pytest.param(Query(reviewer="k"), [], id="no-part-of-a-reviewer"),
        pytest.param(Query(kind="issuance"), [2], id="kind"),
        pytest.param(Query(kind='x"y'), [], id="kind-with-a-quote"),
        pytest.param(Query(since=START + dt.timedelta(seconds=6)), [1, 2], id="since"),
        pytest.param(Query(until=START + dt.timedelta(seconds=6)), [0], id="until"),
        pytest.param(Query(kind="decision", identity=parse_identity(CART), decision="deny"), [0], id="all-together"),
        pytest.param(Query(kind="review", decision="deny"), [], id="all-and-not-any"),
    ],
)
def test_a_question_means(query: Query, indexes: list[int]) -> None:
    assert found(query) == indexes


@settings(max_examples=examples(60), deadline=None)
@given(text=st.text(min_size=1, max_size=12), field=st.sampled_from(["code", "decision", "service"]))
def test_looking_at_bytes_first_leaves_nothing_out(text: str, field: str) -> None:
    data = make(1, **{field: text})
    query = Query(**{field: text})  # type: ignore[arg-type]  # all three are texts
    assert query.matches(read_record(data))
    assert [index for index, _ in search([(4, data)], query)] == [4]


def test_a_record_that_may_be_meant_and_cannot_be_read_is_named() -> None:
    with pytest.raises(Invalid) as caught:
        list(search([(9, b'{"kind":"decision"}')], Query(kind="decision")))
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 9)
    broken = make(1).replace(b'"time":"2026', b'"time":"x026')
    with pytest.raises(Invalid) as caught:
        list(search([(9, broken)], Query(since=START)))
    assert caught.value.code == "LM6035"


def test_an_identity_is_a_spiffe_id_or_a_pattern_of_them() -> None:
    with pytest.raises(Invalid) as caught:
        parse_identity("cart")
    assert caught.value.code == "LM6059"


def test_a_service_is_the_called_side_alone() -> None:
    assert not is_about({"caller": DB, "destination": CART}, "db")
