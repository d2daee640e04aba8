import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.sources.exports import MAX_TEMPLATES, Exporter, begins_like_export
from tests.learner.sources.accounts import DATA, ledger


def v5_record(source: str, sport: int, destination: str, dport: int, flags: int = 0x1B) -> bytes:
    return struct.pack(
        "!4s4s4sHHIIIIHHxBBBHHBBxx",
        ipaddress.ip_address(source).packed,
        ipaddress.ip_address(destination).packed,
        bytes(4), 0, 0, 5, 500, 1000, 2000, sport, dport, flags, 6, 0, 0, 0, 0, 0,
    )  # fmt: skip


def v5(*records: bytes, sequence: int = 0, sampling: int = 0) -> bytes:
    return struct.pack("!HHIIIIBBH", 5, len(records), 5000, 1_780_000_000, 0, sequence, 0, 0, sampling) + b"".join(
        records
    )


def template(number: int, fields: list[tuple[int, int]], kind: int = 2) -> tuple[int, bytes]:
    scope = struct.pack("!H", 1) if kind == 3 else b""
    return kind, struct.pack("!HH", number, len(fields)) + scope + b"".join(
        struct.pack("!HH", *field) for field in fields
    )


def ipfix(*sets: tuple[int, bytes], sequence: int = 0) -> bytes:
    body = b"".join(struct.pack("!HH", kind, len(data) + 4) + data for kind, data in sets)
    return struct.pack("!HHIII", 10, len(body) + 16, 1_780_000_000, sequence, 7) + body


def v9(*sets: tuple[int, bytes], sequence: int = 0) -> bytes:
    body = b"".join(struct.pack("!HH", kind, len(data) + 4) + data for kind, data in sets)
    return struct.pack("!HHIIII", 9, len(sets), 5000, 1_780_000_000, sequence, 7) + body


ONE = v5_record("10.0.0.1", 1, "10.0.0.2", 2)


def test_gaps_in_the_count_are_lost_records_and_a_new_start_is_none() -> None:
    account = ledger()
    exporter = Exporter(account)
    for sequence in (100, 101, 110, 0, 1):
        exporter.records(v5(ONE, sequence=sequence))
    assert account.lost == 8
    account = ledger()
    exporter = Exporter(account)
    row = (256, b"\x06")
    exporter.records(ipfix(template(256, [(4, 1)]), row, row, sequence=5))
    exporter.records(ipfix(row, sequence=7))
    exporter.records(ipfix(row, sequence=11))
    assert account.lost == 3
    account = ledger()
    exporter = Exporter(account)
    for sequence in (1, 2, 5):
        exporter.records(v9((0, template(256, [(4, 1)])[1]), row, sequence=sequence))
    assert account.lost == 2


@pytest.mark.parametrize(
    ("message", "sampled"),
    [
        pytest.param(v5(ONE, sampling=1 << 14 | 100), 100, id="header-of-v5"),
        pytest.param(ipfix(template(256, [(4, 1), (34, 4)]), (256, b"\x06\0\0\x01\0")), 256, id="in-the-record"),
        pytest.param(
            ipfix(template(257, [(143, 4), (305, 4), (306, 4)], 3), (257, bytes(7) + b"\x01\0\0\0\x63")),
            100,
            id="options",
        ),
        pytest.param(
            v9((1, struct.pack("!HHHHHHH", 257, 4, 4, 1, 4, 34, 4)), (257, bytes(6) + b"\x03\xe8")),
            1000,
            id="options-of-v9",
        ),
    ],
)  # fmt: skip
def test_sampling_is_accounted_wherever_it_is_said(message: bytes, sampled: int) -> None:
    account = ledger()
    Exporter(account).records(message)
    assert account.sampled == sampled


def test_sets_before_their_template_are_lost_and_said() -> None:
    account = ledger()
    exporter = Exporter(account)
    assert exporter.records(ipfix((300, b"\x06"))) == []
    assert account.lost == 1
    assert account.skipped["sets before their template"] == 1


def test_fields_of_any_length_and_of_enterprises_are_passed_over() -> None:
    fields = struct.pack("!HHHHIHHHH", 300, 3, 0x8001, 2, 29305, 82, 0xFFFF, 4, 1)
    row = b"\xaa\xaa" + b"\x03eth" + b"\x06" + b"\xbb\xbb" + b"\xff\x00\x02lo" + b"\x11"
    found = Exporter(ledger()).records(ipfix((2, fields), (300, row)))
    assert [item.values for item in found] == [{82: b"eth", 4: b"\x06"}, {82: b"lo", 4: b"\x11"}]


def test_templates_are_bounded() -> None:
    exporter = Exporter(ledger())
    for domain in range(2):
        for number in range(256, 256 + MAX_TEMPLATES):
            exporter.records(
                struct.pack("!HHIII", 10, 28, 0, 0, domain) + struct.pack("!HHHHHH", 2, 12, number, 1, 4, 1)
            )
    assert len(exporter._templates) == MAX_TEMPLATES


@pytest.mark.parametrize(
    "message",
    [
        ipfix((2, struct.pack("!HH", 300, 600))),
        ipfix((2, struct.pack("!HHHH", 300, 5, 4, 1))),
        ipfix(template(300, [(4, 1)]))[:-6] + b"\0\2\xff\xff\0\0",
        v5(*[ONE] * 31),
        ipfix(template(300, [(4, 0)]), (300, b"aaaa")),
        ipfix(template(300, [(82, 0xFFFF)]), (300, b"\x09a")),
    ],
    ids=["many-fields", "cut-template", "set-size", "many-records", "empty-record", "cut-record"],
)
def test_sizes_that_contradict_the_bytes_are_refused(message: bytes) -> None:
    with pytest.raises(ValueError):
        Exporter(ledger()).records(message)


def test_only_headers_that_hold_together_begin_like_an_export() -> None:
    for name in ("v5.bin", "v9.bin", "ipfix.bin"):
        assert begins_like_export((DATA / "netflow" / name).read_bytes())
    for data in (b"", b"\0\5" * 20, b"\0\x0a" * 20, b"\0\x09" + b"\0" * 40, b"\0\x63" * 20):
        assert not begins_like_export(data)


@given(st.sampled_from(["v5.bin", "v9.bin", "ipfix.bin"]), st.data())
def test_no_bytes_make_more_than_a_refusal(name: str, data: st.DataObject) -> None:
    message = bytearray((DATA / "netflow" / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(2, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        Exporter(ledger()).records(bytes(message))
    except ValueError:
        pass
