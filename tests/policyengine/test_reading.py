"""The strict reader keeps reading after a finding, and takes what is missing in silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.reading import MISSING, Reader, did_you_mean


def test_all_findings_of_one_rule_come_at_once() -> None:
    reader = Reader()
    assert reader.rule({"efect": "deny", "from": ["x"], "to": [{"ports": ["80"]}]}, ("rules", 0)) is None
    assert {item.code for item in reader.findings} == {"LM2002", "LM2003", "LM2006", "LM2010"}
    assert [item.path for item in reader.findings if item.code == "LM2010"] == [("rules", 0, "to", 0, "ports", 0)]


def test_what_is_missing_is_reported_once() -> None:
    reader = Reader()
    assert reader.grant({}, ()) is None
    assert [item.code for item in reader.findings] == ["LM2003", "LM2003"]
    for read in (reader.text, reader.port, reader.principals, reader.conditions, reader.moment, reader.method):
        assert read(MISSING, ()) is None
    assert len(reader.findings) == 2


@pytest.mark.parametrize(
    ("name", "hint"), [("efect", "; did you mean `effect`?"), ("zzz", ""), ("unles", "; did you mean `unless`?")]
)
def test_did_you_mean(name: str, hint: str) -> None:
    assert did_you_mean(name, ["effect", "from", "unless"]) == hint


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "effect", "from", "to", "when", "unless", "ports", "paths", "hours", "tz", "claims", "issuer"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_values)
def test_nothing_is_raised_and_every_refusal_is_noted(value: object) -> None:
    for name in ("rule", "operation", "conditions", "unless", "hours", "claims", "headers", "grant", "service_port"):
        reader = Reader()
        found = getattr(reader, name)(value, ())
        assert found is not None or reader.findings
