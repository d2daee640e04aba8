import pytest

from audit.formats.forms import FORMS, NAMES
from tests.audit.formats.samples import SAMPLES, samples


@pytest.mark.parametrize("name", FORMS)
def test_every_form_writes_whole_lines_of_every_record(name: str) -> None:
    lines = list(FORMS[name].lines(samples()))
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    assert len(lines) == (1 if name == "otlp" else len(SAMPLES))


def test_the_names_are_those_of_the_command() -> None:
    assert NAMES == ("jsonl", "ocsf", "ecs", "cef", "syslog", "otlp", "parquet")
