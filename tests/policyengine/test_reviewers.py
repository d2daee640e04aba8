import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.problems import Problem
from mesh.spiffe import TrustDomain
from policyengine import dsse
from policyengine.reviewers import (
    Reviewer,
    ReviewerSet,
    lineage,
    reviewer_set_from_json,
    sign_set,
    verify_chain,
    verify_successor,
)


def successor(releases: Any, **fields: Any) -> Any:
    standard = {"version": 2, "previous": releases.judges.hash}
    return dataclasses.replace(releases.judges, **{**standard, **fields})


def signed(releases: Any, proposed: Any, *names: Any) -> Any:
    return sign_set(proposed, [releases.keys[name] for name in names])


def code_of(act: Any) -> str:
    with pytest.raises(Problem) as caught:
        act()
    return caught.value.code


def test_reads_what_it_writes(releases: Any) -> None:
    assert reviewer_set_from_json(json.loads(releases.judges.to_bytes())) == releases.judges


def test_accepts_a_version_that_the_threshold_of_the_one_before_signed(releases: Any) -> None:
    second = successor(releases, threshold=3)
    assert verify_successor(releases.judges, signed(releases, second, "dana", "olga")) == second


def test_accepts_a_version_that_the_recovery_key_alone_signed(releases: Any) -> None:
    second = successor(releases, threshold=3)
    assert verify_successor(releases.judges, signed(releases, second, "rita")) == second


@pytest.mark.parametrize("names", [("dana",), ("dana", "dana"), ("dana", "mallory"), ("mallory",)], ids=str)
def test_refuses_a_version_below_the_threshold(releases: Any, names: Any) -> None:
    envelope = signed(releases, successor(releases), *names)
    assert code_of(lambda: verify_successor(releases.judges, envelope)) == "LM2404"


def test_refuses_a_version_signed_only_by_reviewers_that_it_names_itself(releases: Any) -> None:
    usurper = Reviewer(name="mallory", public_key=dsse.public_bytes(releases.keys["mallory"]), teams=("*",))
    second = successor(releases, threshold=1, reviewers=(usurper,))
    assert code_of(lambda: verify_successor(releases.judges, signed(releases, second, "mallory"))) == "LM2404"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"version": 3}, id="skips-a-version"),
        pytest.param({"previous": "sha256:" + "0" * 64}, id="continues-another-set"),
        pytest.param({"trust_domain": TrustDomain("other.test")}, id="other-trust-domain"),
    ],
)
def test_refuses_a_version_that_does_not_continue_the_chain(releases: Any, fields: Any) -> None:
    envelope = signed(releases, successor(releases, **fields), "dana", "olga")
    assert code_of(lambda: verify_successor(releases.judges, envelope)) == "LM2405"


def test_walks_a_chain_from_the_pinned_set(releases: Any) -> None:
    second = successor(releases, threshold=1)
    third = dataclasses.replace(second, version=3, previous=second.hash, threshold=3)
    envelopes = [
        *releases.chain,
        signed(releases, second, "dana", "wim"),
        signed(releases, third, "olga"),
    ]
    assert verify_chain(envelopes, releases.judges.hash) == (releases.judges, second, third)
    assert verify_chain(envelopes, second.hash) == (second, third)


def test_refuses_a_chain_without_the_pinned_set(releases: Any) -> None:
    second = successor(releases)
    envelopes = [signed(releases, second, "dana", "wim")]
    assert code_of(lambda: verify_chain(envelopes, releases.judges.hash)) == "LM2406"
    assert code_of(lambda: verify_chain([], releases.judges.hash)) == "LM2406"


def test_refuses_a_chain_with_a_forged_link_in_the_middle(releases: Any) -> None:
    second = successor(releases, threshold=1)
    third = dataclasses.replace(second, version=3, previous=second.hash)
    envelopes = [*releases.chain, signed(releases, second, "mallory"), signed(releases, third, "dana")]
    assert code_of(lambda: verify_chain(envelopes, releases.judges.hash)) == "LM2404"


def test_knows_the_ancestors_of_the_pinned_set_and_no_others(releases: Any) -> None:
    second = successor(releases, threshold=1)
    stranger = dataclasses.replace(releases.judges, threshold=3)
    envelopes = [signed(releases, stranger, "mallory"), *releases.chain, signed(releases, second, "dana", "wim")]
    chain = verify_chain(envelopes, second.hash)
    assert lineage(envelopes, chain) == {releases.judges.hash, second.hash}


def reviewer(index: int, **fields: Any) -> Reviewer:
    return Reviewer(**{"name": f"r{index}", "public_key": bytes([index]) * 32, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"reviewers": ()}, id="nobody"),
        pytest.param({"threshold": 0}, id="threshold-zero"),
        pytest.param({"threshold": 3}, id="threshold-above-the-number"),
        pytest.param({"reviewers": (reviewer(1), reviewer(1, name="again"))}, id="one-key-twice"),
        pytest.param({"reviewers": (reviewer(1), reviewer(2, name="r1"))}, id="one-name-twice"),
        pytest.param({"reviewers": (reviewer(1), reviewer(2, public_key=b"short"))}, id="no-key"),
        pytest.param({"reviewers": (reviewer(1), reviewer(2, teams=("",)))}, id="empty-team"),
        pytest.param({"recovery_key": reviewer(1).public_key}, id="recovery-key-of-a-reviewer"),
        pytest.param({"version": 0}, id="version-zero"),
        pytest.param({"previous": "sha256:x"}, id="first-with-previous"),
        pytest.param({"version": 2}, id="second-without-previous"),
    ],
)
def test_refuses_a_set_that_breaks_a_rule(fields: Any) -> None:
    standard = {
        "trust_domain": TrustDomain("corp.test"),
        "version": 1,
        "threshold": 1,
        "reviewers": (reviewer(1), reviewer(2)),
    }
    assert code_of(lambda: ReviewerSet(**{**standard, **fields})) == "LM2403"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trust_domain", "Corp.test"),
        ("version", True),
        ("threshold", 1.0),
        ("previous", 1),
        ("reviewers", {}),
        ("reviewers", [{"name": "a"}]),
        ("reviewers", [{"name": 1, "public_key": "", "teams": []}]),
        ("reviewers", [{"name": "a", "public_key": "*", "teams": []}]),
        ("reviewers", [{"name": "a", "public_key": "", "teams": "x"}]),
        ("extra", 1),
    ],
    ids=str,
)
def test_refuses_json_that_is_no_set(releases: Any, name: Any, value: Any) -> None:
    obj = {**releases.judges.to_json(), name: value}
    assert code_of(lambda: reviewer_set_from_json(obj)) == "LM2403"


def test_refuses_a_set_that_is_not_in_canonical_form(releases: Any) -> None:
    spaced = json.dumps(successor(releases).to_json()).encode()
    from policyengine.reviewers import REVIEWER_SET_TYPE

    envelope = dsse.sign(REVIEWER_SET_TYPE, spaced, [releases.keys["dana"], releases.keys["wim"]])
    assert code_of(lambda: verify_successor(releases.judges, envelope)) == "LM2403"


@given(
    st.dictionaries(
        st.sampled_from(["trust_domain", "version", "threshold", "reviewers", "previous"]),
        st.none() | st.integers() | st.text(),
    )
)
def test_any_json_is_read_or_refused_with_a_code(value: Any) -> None:
    try:
        reviewer_set_from_json({"recovery_key": None, **value})
    except Problem as problem:
        found = problem.code
    else:
        found = "LM2403"
    assert found == "LM2403"


@pytest.mark.parametrize(
    ("teams", "owner", "expected"),
    [(("a",), "a", True), (("a",), "b", False), ((), "a", False), (("*",), "a", True)],
    ids=str,
)
def test_a_reviewer_answers_for_their_teams(teams: Any, owner: Any, expected: Any) -> None:
    assert reviewer(1, teams=teams).answers_for(owner) is expected
