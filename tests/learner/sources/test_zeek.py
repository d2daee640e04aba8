import json
import pathlib

from tests.learner.sources.accounts import read_text, seen

NAMES = [
    "ts",
    "uid",
    "id.orig_h",
    "id.orig_p",
    "id.resp_h",
    "id.resp_p",
    "proto",
    "service",
    "duration",
    "orig_bytes",
    "resp_bytes",
    "conn_state",
    "local_orig",
    "local_resp",
    "missed_bytes",
    "history",
    "orig_pkts",
    "orig_ip_bytes",
    "resp_pkts",
    "resp_ip_bytes",
    "tunnel_parents",
]
HEADER = (
    "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
    "#fields\t" + "\t".join(NAMES) + "\n#types\ttime\tstring\taddr\n"
)


def tsv(port: int, proto: str, state: str, history: str, duration: str = "0.25") -> str:
    words = ["1780000000.123456", "C1", "10.0.0.1", "40000", "10.0.0.2", str(port), proto, "-", duration, "1", "1"]
    return "\t".join([*words, state, "T", "T", "0", history, "1", "1", "1", "1", "(empty)"])


LINES = [
    tsv(80, "tcp", "SF", "ShADadFf"),
    tsv(81, "tcp", "S0", "S", "-"),
    tsv(82, "tcp", "REJ", "Sr"),
    tsv(53, "udp", "SF", "Dd"),
    tsv(83, "tcp", "OTH", "DadA"),
    tsv(84, "tcp", "SF", "^hADafF"),
    tsv(0, "icmp", "OTH", "-"),
    "short\tline",
]
EXPECTED = [
    "10.0.0.1 > 10.0.0.2:80 tcp yes",
    "10.0.0.1 > 10.0.0.2:81 tcp no",
    "10.0.0.1 > 10.0.0.2:82 tcp no",
    "10.0.0.1 > 10.0.0.2:53 udp yes",
]


def test_tsv_is_read_by_the_names_of_its_header(tmp_path: pathlib.Path) -> None:
    flows, account = read_text(tmp_path, HEADER + "\n".join(LINES) + "\n#close\t2026-05-01-11-00-00\n")
    assert account.source == "zeek"
    assert [seen(flow) for flow in flows] == EXPECTED
    assert (account.ambiguous, account.unreadable, account.seen) == (2, 1, 8)
    assert flows[0].end is not None
    assert (flows[0].end - flows[0].start).total_seconds() == 0.25


def test_json_says_the_same(tmp_path: pathlib.Path) -> None:
    rows = []
    for line in LINES[:7]:
        row: dict[str, object] = {
            name: word for name, word in zip(NAMES, line.split("\t"), strict=True) if word not in {"-", "(empty)"}
        }
        row |= {
            "ts": 1780000000.123456,
            "id.orig_p": int(str(row["id.orig_p"])),
            "id.resp_p": int(str(row["id.resp_p"])),
        }
        if "duration" in row:
            row["duration"] = float(str(row["duration"]))
        rows.append(json.dumps(row))
    rows.append(json.dumps({**json.loads(rows[0]), "ts": "2026-05-01T10:00:00.000000Z"}))
    flows, account = read_text(tmp_path, "\n".join(rows))
    assert [seen(flow) for flow in flows] == [*EXPECTED, EXPECTED[0]]
    assert account.ambiguous == 2


def test_records_before_their_header_are_unreadable(tmp_path: pathlib.Path) -> None:
    _, account = read_text(tmp_path, LINES[0], "zeek")
    assert account.unreadable == 1
