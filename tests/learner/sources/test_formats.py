import json
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learner.sources import formats
from learner.sources.formats import FORMATS, Format, detect
from mesh.problems import Invalid
from tests.learner import worlds
from tests.learner.sources.accounts import read

DATA = pathlib.Path(__file__).parent.parent / "data"


def test_content_that_two_formats_claim_is_nobodys(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Format(name="other", title="other", read=FORMATS["limen"].read, recognises=lambda head: True)
    monkeypatch.setitem(formats.FORMATS, "other", other)
    path = tmp_path / "flows"
    path.write_text(json.dumps(worlds.shop(1)[0].to_json()))
    with pytest.raises(Invalid, match="limen, other") as found:
        detect(path)
    assert found.value.code == "LM4014"


def test_what_was_left_out_is_said_after_the_last_flow(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flows"
    path.write_text(json.dumps(worlds.shop(1)[0].to_json()) + "\nbroken\n")
    flows, account, findings = read(path)
    assert len(flows) == account.flows == 1
    assert (account.source, account.seen, account.unreadable) == ("limen", 2, 1)
    assert [item.code for item in findings] == ["LM4002", "LM4016", "LM4015"]


def test_no_name_of_the_contract_is_missing_and_every_title_is_unique() -> None:
    assert len({item.title for item in FORMATS.values()}) == len(FORMATS)
    assert all(name == item.name for name, item in FORMATS.items())


GOLDEN = sorted(path for path in DATA.glob("*/*") if path.is_file()) + sorted(DATA.glob("*.pcap*"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_sample_is_claimed_by_one_format_alone(path: pathlib.Path) -> None:
    head = path.read_bytes()[: formats.HEAD_BYTES]
    assert len([name for name, item in FORMATS.items() if item.recognises(head)]) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(GOLDEN), st.sampled_from(sorted(FORMATS)), st.integers(0, 10**6), st.binary(max_size=8))
def test_damaged_input_of_any_format_is_flows_or_findings(
    tmp_path: pathlib.Path, path: pathlib.Path, form: str, at: int, new: bytes
) -> None:
    data = path.read_bytes()
    at %= len(data)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(data[:at] + new + data[at + len(new) :])
    for name in (form, "auto"):
        try:
            flows, account, _ = read(damaged, name)
        except Invalid as found:
            assert found.code in {"LM4001", "LM4007", "LM4010", "LM4014"}
        else:
            assert account.flows == len(flows)
            assert account.unreadable == account.skipped["unreadable"]
