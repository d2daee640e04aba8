from audit.formats import jsonl
from tests.audit.formats.samples import samples
from tests.audit.making import make


def test_a_line_is_the_record_as_it_stands_in_the_log() -> None:
    assert list(jsonl.lines(samples())) == [data + b"\n" for _, data in samples()]
    assert all(line.count(b"\n") == 1 for line in jsonl.lines([(0, make(0, text="a\nb\u2028"))]))
