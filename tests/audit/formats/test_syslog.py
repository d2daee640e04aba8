import json
import re
import warnings

import pytest
from hypothesis import given

from audit.formats import syslog
from mesh.clock import parse_time
from mesh.problems import Problem
from tests.audit.formats.samples import SAMPLES, SPAN, TRACE, any_record, as_json, sample, samples
from tests.audit.making import START

with warnings.catch_warnings():
    # its grammar's library imports a module of Python's that has another name by now
    warnings.simplefilter("ignore", DeprecationWarning)
    from syslog_rfc5424_parser import SyslogMessage
    from syslog_rfc5424_parser.constants import SyslogFacility


def parse(line: bytes) -> SyslogMessage:
    """What an independent parser reads."""
    return SyslogMessage.parse(line.decode().removesuffix("\n"))


def is_readable(line: bytes) -> bool:
    """Whether the parser can read it: it takes the quote after an escaped backslash for an escaped one."""
    return b'\\\\"' not in line.partition(b" {")[0]


def elements(line: bytes) -> dict[str, dict[str, str]]:
    """Structured data, read by the grammar of RFC 5424 §6.3."""
    text = line.decode().split(" ", 6)[6]
    found: dict[str, dict[str, str]] = {}
    while match := re.match(r'\[([^ ="\]]+)((?: [^ ="\]]+="(?:[^"\\\]]|\\.)*")*)\]', text):
        pairs = re.findall(r' ([^ ="\]]+)="((?:[^"\\\]]|\\.)*)"', match[2])
        found[match[1]] = {name: re.sub(r'\\(["\\\]])', r"\1", value) for name, value in pairs}
        text = text[match.end() :]
    assert text.startswith(" {")
    return found


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "unfriendly texts"])
def test_an_independent_parser_reads_every_sample(name: str) -> None:
    found = parse(next(syslog.lines([sample(name)])))
    assert (found.version, found.facility, found.appname, found.hostname) == (
        1, SyslogFacility.audit, "limen", "corp.test",
    )  # fmt: skip
    assert parse_time(found.timestamp) == START
    assert json.loads(found.msg) == as_json(sample(name)[1])
    assert found.sd[syslog.SD_ID]["id"] == as_json(sample(name)[1])["id"]


@given(any_record())
def test_the_record_survives_whatever_it_holds(item: tuple[int, bytes]) -> None:
    line = next(syslog.lines([item]))
    assert line.count(b"\n") == 1
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", line)
    record = as_json(item[1])
    found = elements(line)[syslog.SD_ID]
    if is_readable(line):
        assert json.loads(parse(line).msg) == record
    for name in ("caller", "path", "policy", "rule"):
        value = record.get(name)
        if isinstance(value, str) and value:
            assert found[name] == re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029]", "\ufffd", value)


def test_structured_data_says_who_whom_what_by_which_rule_and_in_which_trace() -> None:
    found = parse(next(syslog.lines([sample("request")]))).sd[syslog.SD_ID]
    for name in ("caller", "destination", "decision", "policy", "rule", "method", "path"):
        assert found[name] == SAMPLES["request"][name]
    assert (found["port"], found["trace_id"], found["span_id"]) == ("8080", TRACE, SPAN)


def test_names_of_parameters_and_elements_are_those_of_the_specification() -> None:
    assert all(re.fullmatch(r"[!#-<>-\\^-~]{1,32}", name) for name in (*syslog._FIELDS, syslog.SD_ID))


def test_a_denial_is_a_warning_and_a_change_a_notice() -> None:
    found = [
        parse(next(syslog.lines([sample(name)]))).severity.name for name in ("request", "denied", "activation", "lost")
    ]
    assert found == ["info", "warning", "notice", "err"]


def test_messages_carry_their_place_in_the_log() -> None:
    found = [elements(line)["meta"]["sequenceId"] for line in syslog.lines(samples())]
    assert found == [str(number + 1) for number in range(len(SAMPLES))]
    wrapped = elements(next(syslog.lines([(2147483647, sample("request")[1])])))
    assert wrapped["meta"]["sequenceId"] == "1"


def test_a_record_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Problem) as caught:
        list(syslog.lines([(7, b"{}")]))
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 7)


def test_no_control_character_is_in_the_message_whatever_form_it_has() -> None:
    data = sample("request")[1].replace(b"orders", b"or\x7fders")
    for body in (None, data, data.replace(b"shop", "é".encode())):
        line = syslog.message(0, data, body=body)
        assert b"\x7f" not in line
        assert json.loads(line[line.index(b"{") :])["path"] == "/or\x7fders/1?page=2"
