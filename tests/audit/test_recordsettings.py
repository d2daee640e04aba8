import datetime as dt
import pathlib

import pytest

from audit.recordsettings import FILE, RecordSettings, load_record_settings, parse_record_settings
from mesh.problems import Problem

WHOLE = """
mask:
  drop: [x-ssn]
  hash: [x-user]
  tokenise: [order-id]
spool:
  {sync: denials, when_full: spill, max_bytes: 1000000, allowed_one_of: 5, sample: 10,
   spill: /var/spill, spill_bytes: 2000000}
retention: {keep_days: 400}
"""


def test_the_file_is_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / FILE).write_text(WHOLE)
    found = load_record_settings(tmp_path)
    assert (found.drop, found.hash, found.tokenise) == (("x-ssn",), ("x-user",), ("order-id",))
    assert found.allowed_one_of == 5
    assert (found.sync, found.when_full, found.max_bytes, found.sample) == ("denials", "spill", 1_000_000, 10)
    assert (found.spill, found.spill_bytes) == (pathlib.Path("/var/spill"), 2_000_000)
    assert found.keep == dt.timedelta(days=400)
    assert found.masking(bytes(32)).mask({"x-ssn": "1"}) == {"x-ssn": "[removed]"}


def test_without_the_file_nothing_is_pruned_by_age() -> None:
    assert RecordSettings().keep is None
    assert parse_record_settings("retention: {}", "x").keep is None


def test_without_the_file_records_block(tmp_path: pathlib.Path) -> None:
    assert load_record_settings(tmp_path) == RecordSettings() == parse_record_settings("", "x")
    assert (RecordSettings().when_full, RecordSettings().sync) == ("block", "none")


@pytest.mark.parametrize(
    "text",
    [
        "[]", "masks: {}", "mask: {dorp: [a]}", "mask: {drop: a}", "mask: {drop: [1]}", "mask: []",
        "spool: {when_full: drop}", "spool: {when_full: spill}", "spool: {spill: /a}", "spool: {max_bytes: 1}",
        "spool: {when_full: spill, spill: a}", "a: b: c", "---\n{}\n---\n{}\n", "spool: {sample: true}",
        "spool: {sample: 1}", "spool: {allowed_one_of: 0}", "spool: {sync: all}", "spool: {sync: [denials]}",
        "retention: 30", "retention: {keep: 30}", "retention: {keep_days: 0}", "retention: {keep_days: 30.5}",
        "retention: {keep_days: true}", "retention: {keep_days: 36501}", "retention: {keep_days: 30d}",
    ],
)  # fmt: skip
def test_a_file_with_a_mistake_is_refused(text: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_record_settings(text, "records.yaml")
    assert caught.value.code == "LM6004"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(Problem) as caught:
        load_record_settings(tmp_path)
    assert caught.value.code == "LM6004"
