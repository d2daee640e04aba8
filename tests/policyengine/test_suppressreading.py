"""Suppressions are read strictly, and know what they are about."""

import datetime as dt

import pytest

from policyengine.loader import load_text

DOCUMENT = """\
apiVersion: limen.dev/v1
kind: Policy
metadata:
  name: p
  owner: o
  suppress:
  - {{{entry}}}
spec:
  service: db
  tier: app
  rules:
  - {{id: a, effect: allow, from: [any]}}
  - {{id: b, effect: allow, from: [any]}}
---
apiVersion: limen.dev/v1
kind: Service
metadata: {{name: db, owner: o}}
spec: {{identities: ["spiffe://t/db"], ports: [{{port: 80, protocol: http}}]}}
"""


@pytest.mark.parametrize(
    ("entry", "extent"),
    [
        ('code: LM2108, reason: r, until: "2027-01-01"', ((1, 1), (15, 1))),
        ('code: LM2108, reason: r, until: "2027-01-01", rule: a', ((12, 5), (13, 5))),
        ('code: LM2108, reason: r, until: "2027-01-01", rule: b', ((13, 5), (15, 1))),
        ('code: LM2108, reason: r, until: "2027-01-01", rule: c', ((7, 5), (7, 5))),
    ],
    ids=["document", "first-rule", "last-rule", "no-such-rule"],
)
def test_a_suppression_speaks_of_its_document_or_of_one_rule(
    entry: str, extent: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    policies, found = load_text(DOCUMENT.format(entry=entry), "x.yaml")
    assert found == []
    (only,) = policies.suppressions
    assert (only.code, only.reason, only.until) == ("LM2108", "r", dt.datetime(2027, 1, 1, tzinfo=dt.UTC))
    assert only.extent == extent
    assert only.span.line == 7


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ('code: shadowed, reason: r, until: "2027-01-01"', "LM2124"),
        ('code: LM2108, reason: " ", until: "2027-01-01"', "LM2125"),
        ("code: LM2108, reason: r", "LM2003"),
        ('code: LM2108, reason: r, until: "soon"', "LM2016"),
        ('code: LM2108, until: "2027-01-01"', "LM2003"),
        ('code: LM2108, reason: r, until: "2027-01-01", why: x', "LM2002"),
        ('code: LM2108, reason: r, until: "2027-01-01", rule: "a b"', "LM2020"),
    ],
)
def test_a_suppression_without_code_reason_or_end_is_refused(entry: str, code: str) -> None:
    _, found = load_text(DOCUMENT.format(entry=entry), "x.yaml")
    assert {item.code for item in found} == {code}


def test_a_timestamp_ends_a_suppression_to_the_second() -> None:
    entry = 'code: LM2108, reason: r, until: "2027-01-01T12:30:00+01:00"'
    policies, _ = load_text(DOCUMENT.format(entry=entry), "x.yaml")
    assert policies.suppressions[0].until == dt.datetime(2027, 1, 1, 11, 30, tzinfo=dt.UTC)


def test_suppressions_decide_nothing_and_are_in_no_snapshot() -> None:
    with_it, _ = load_text(DOCUMENT.format(entry='code: LM2108, reason: r, until: "2027-01-01"'), "x.yaml")
    without, _ = load_text(DOCUMENT.format(entry='code: LM2109, reason: s, until: "2028-01-01"'), "x.yaml")
    assert with_it == without
    assert with_it.to_json() == without.to_json()
