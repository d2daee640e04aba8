import pathlib

import pytest

from learner.sources.istio import recognises
from tests.learner.sources.accounts import DATA, read, read_text, seen
from tests.learner.sources.test_envoy import SERVED

LINE = (DATA / "envoy" / "istio.txt").read_text().splitlines()[0]


def test_what_a_real_envoy_wrote_in_istios_format_is_read() -> None:
    flows, account, findings = read(DATA / "envoy" / "istio.txt")
    assert account.source == "istio"
    expected = [line.replace("grpc", "http") for line in SERVED]
    expected[6] = "None > 127.0.0.1:40727 http GET / 200 yes"
    # the fifth line has a user agent with quotation marks, which Envoy does not escape
    del expected[4]
    assert [seen(flow) for flow in flows] == expected
    assert account.unreadable == 1
    assert [(item.code, item.span and item.span.line) for item in findings[:1]] == [("LM4013", 5)]


@pytest.mark.parametrize(
    "agent",
    [
        'x" "id" "host" "10.9.9.9:80" outbound|80||victim - 1.1.1.1:1 2.2.2.2:2 - default',
        'x"',
        '" "',
        'x" "y',
    ],
)
def test_no_caller_writes_tokens_of_its_own(agent: str, tmp_path: pathlib.Path) -> None:
    flows, account = read_text(tmp_path, LINE.replace("curl/7.88.1", agent), "istio")
    assert flows == []
    assert account.unreadable == 1


def test_lines_of_the_proxy_itself_do_not_hide_the_format() -> None:
    assert recognises(b"2026-05-01T00:00:00Z\tinfo\tEnvoy proxy is ready\n" + LINE.encode() + b"\n")
    assert not recognises(b'[x] "GET / HTTP/1.1" 200 - "-" 0 0\n')
