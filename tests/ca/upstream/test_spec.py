import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.upstream.spec import parse_life, parse_upstream
from mesh.problems import Invalid


@pytest.mark.parametrize(
    ("text", "kind", "facts"),
    [
        ("own", "own", {}),
        ("offline", "offline", {}),
        ("disk:cert=/a.pem,key=/a.key,life=30d", "disk", {"cert": "/a.pem", "key": "/a.key", "life": "30d"}),
        (
            "disk:cert=/a.pem,key=pkcs11:token=a;object=b?module-path=/l.so&pin-source=file:/p",
            "disk",
            {"cert": "/a.pem", "key": "pkcs11:token=a;object=b?module-path=/l.so&pin-source=file:/p"},
        ),
        (
            "step-ca:url=https://ca:9000,root=/r,provisioner=limen,key=/k",
            "step-ca",
            {"url": "https://ca:9000", "root": "/r", "provisioner": "limen", "key": "/k"},
        ),
        ("spire:address=s:8081,workload-api=unix:///a", "spire", {"address": "s:8081", "workload-api": "unix:///a"}),
    ],
)
def test_a_kind_and_its_facts_are_read(text: str, kind: str, facts: dict[str, str]) -> None:
    assert parse_upstream(text) == (kind, facts)


@pytest.mark.parametrize(
    "text",
    ["", "vault", "own:", "own:a=b", "disk", "disk:cert=/a", "disk:cert=/a,key", "disk:cert=/a,key=", "offline:x=y",
     "disk:cert=/a,cert=/b,key=/k", "disk:cert=/a,key=/k,color=red", "/etc/root.pem", "spire:address=a"],
)  # fmt: skip
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="LM1610"):
        parse_upstream(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for head in ("", "disk:", "spire:"):
        try:
            parse_upstream(head + text)
        except Invalid as err:
            assert err.code == "LM1610"


def test_a_life_has_a_unit() -> None:
    assert [parse_life(text) for text in ("30m", "12h", "90d")] == [
        dt.timedelta(minutes=30),
        dt.timedelta(hours=12),
        dt.timedelta(days=90),
    ]
    for text in ("", "0d", "1", "d", "1y", "-1d", "1.5h", "999999d"):
        with pytest.raises(Invalid, match="LM1610"):
            parse_life(text)
