import gzip
import pathlib

import pytest

from tests.learner.sources.accounts import read_text, seen

# the examples of AWS's documentation, and what the same conversation gives in each version
V2 = """\
2 123456789010 eni-1 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1780000010 1780000070 ACCEPT OK
2 123456789010 eni-1 172.31.16.21 172.31.16.139 22 20641 6 20 4249 1780000010 1780000070 ACCEPT OK
2 123456789010 eni-1 172.31.16.140 172.31.16.21 20642 22 6 20 4249 1780000010 1780000070 ACCEPT OK
2 123456789010 eni-1 172.31.16.21 172.31.16.140 22 20642 6 20 4249 1780000010 1780000070 ACCEPT OK
2 123456789010 eni-1 172.31.9.69 172.31.9.12 49761 3389 6 20 4249 1780000010 1780000070 REJECT OK
2 123456789010 eni-1 203.0.113.12 172.31.16.139 0 0 1 4 336 1780000010 1780000070 ACCEPT OK
2 123456789010 eni-1 - - - - - - - 1780000010 1780000070 - NODATA
2 123456789010 eni-1 - - - - - - - 1780000010 1780000070 - SKIPDATA
"""
V5 = """\
version srcaddr dstaddr srcport dstport protocol start end type packets bytes account-id vpc-id subnet-id instance-id \
interface-id region az-id sublocation-type sublocation-id action tcp-flags pkt-srcaddr pkt-dstaddr pkt-src-aws-service \
pkt-dst-aws-service traffic-path flow-direction log-status
5 52.0.0.2 10.0.0.10 43416 5001 6 1780000000 1780000005 IPv4 568 8 1234 vpc-a subnet-a i-1 eni-2 ap-1 apse2-az3 \
- - ACCEPT 2 10.0.0.62 10.0.0.10 - - - ingress OK
5 10.0.0.10 52.0.0.2 5001 43416 6 1780000000 1780000005 IPv4 376 7 1234 vpc-a subnet-a i-1 eni-2 ap-1 apse2-az3 \
- - ACCEPT 18 10.0.0.10 10.0.0.62 - - 1 egress OK
5 10.0.0.7 10.0.0.10 43417 5002 6 1780000000 1780000005 IPv4 1 1 1234 vpc-a subnet-a i-1 eni-2 ap-1 apse2-az3 \
- - ACCEPT 2 10.0.0.7 10.0.0.10 - - - ingress OK
5 10.0.0.10 10.0.0.7 5002 43417 6 1780000000 1780000005 IPv4 1 1 1234 vpc-a subnet-a i-1 eni-2 ap-1 apse2-az3 \
- - ACCEPT 4 10.0.0.10 10.0.0.7 - - - egress OK
"""
PLAIN = ["172.31.16.139 > 172.31.16.21:22 tcp yes", "172.31.16.140 > 172.31.16.21:22 tcp yes"]


def test_version_2_without_a_header_is_read_and_its_holes_counted(tmp_path: pathlib.Path) -> None:
    flows, account = read_text(tmp_path, V2)
    assert account.source == "vpc"
    assert [seen(flow) for flow in flows] == [*PLAIN, "172.31.9.69 > 172.31.9.12:3389 tcp no denied"]
    assert account.gaps == 1
    assert sorted(account.skipped) == [
        "NODATA: a window without traffic",
        "SKIPDATA: records of a window were lost",
        "neither TCP nor UDP",
    ]
    assert account.seen == 8


def test_version_5_names_who_began_and_the_packets_own_addresses(tmp_path: pathlib.Path) -> None:
    flows, account = read_text(tmp_path, V5)
    assert [seen(flow) for flow in flows] == ["10.0.0.62 > 10.0.0.10:5001 tcp yes", "10.0.0.7 > 10.0.0.10:5002 tcp no"]
    assert account.is_complete


def test_versions_3_and_4_are_read_by_the_names_of_their_header(tmp_path: pathlib.Path) -> None:
    header = "version vpc-id srcaddr dstaddr srcport dstport protocol start end action tcp-flags region log-status\n"
    row = "4 vpc-a 10.0.0.1 10.0.0.2 40000 443 6 1780000000 1780000060 ACCEPT 3 eu-1 OK\n"
    back = "4 vpc-a 10.0.0.2 10.0.0.1 443 40000 6 1780000000 1780000060 ACCEPT 19 eu-1 OK\n"
    assert [seen(flow) for flow in read_text(tmp_path, header + row + back)[0]] == ["10.0.0.1 > 10.0.0.2:443 tcp yes"]
    packed = gzip.compress((header + row + back).encode())
    assert len(read_text(tmp_path, packed)[0]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "2 1 eni-1 10.0.0.1 10.0.0.2 1 2 6 1 1 1780000010 1780000070 MAYBE OK",
        "2 1 eni-1 10.0.0.1 10.0.0.2 1 99999 6 1 1 1780000010 1780000070 ACCEPT OK",
        "2 1 eni-1 10.0.0.1 nowhere 1 2 6 1 1 1780000010 1780000070 ACCEPT OK",
        "2 1 eni-1 10.0.0.1",
        "2 1 eni-1 10.0.0.1 10.0.0.2 1 2 6 1 1 soon 1780000070 ACCEPT OK",
    ],
)
def test_broken_records_are_counted(line: str, tmp_path: pathlib.Path) -> None:
    flows, account = read_text(tmp_path, line, "vpc")
    assert (flows, account.seen, account.unreadable) == ([], 1, 1)


def test_a_log_without_the_fields_that_matter_is_said(tmp_path: pathlib.Path) -> None:
    _, account = read_text(tmp_path, "srcaddr dstaddr bytes\n10.0.0.1 10.0.0.2 5\n", "vpc")
    assert account.unreadable == 2
