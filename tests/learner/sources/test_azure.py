import json
import pathlib

from tests.learner.sources.accounts import read_text, seen

# Microsoft's documented shapes of both logs
VNET = {
    "records": [
        {
            "time": "2026-05-01T10:00:00.0000000Z",
            "flowLogVersion": 4,
            "category": "FlowLogFlowEvent",
            "flowRecords": {
                "flows": [
                    {
                        "aclID": "a",
                        "flowGroups": [
                            {
                                "rule": "DefaultRule_AllowInternetOutBound",
                                "flowTuples": [
                                    "1780000000000,10.0.0.6,10.0.0.9,13326,443,6,O,B,NX,0,0,0,0",
                                    "1780000030000,10.0.0.6,10.0.0.9,13326,443,6,O,E,NX,11,4000,9,5000",
                                    "1780000030000,10.0.0.6,10.0.0.9,13327,444,6,O,E,NX,3,180,0,0",
                                    "1780000000000,10.0.0.8,10.0.0.9,13328,22,6,I,D,NX,0,0,0,0",
                                    "1780000000000,10.0.0.8,10.0.0.9,0,0,1,I,E,NX,0,0,0,0",
                                ],
                            }
                        ],
                    }
                ]
            },
        }
    ]
}
NSG = {
    "records": [
        {
            "time": "2026-05-01T10:00:00.0000000Z",
            "category": "NetworkSecurityGroupFlowEvent",
            "properties": {
                "Version": 2,
                "flows": [
                    {
                        "rule": "UserRule_default",
                        "flows": [
                            {
                                "mac": "000D3AF87856",
                                "flowTuples": [
                                    "1780000000,203.0.113.1,10.5.16.4,28746,443,U,I,D,B,,,,",
                                    "1780000000,10.5.16.4,13.67.143.118,44931,443,T,O,A,B,,,,",
                                    "1780000000,10.5.16.4,13.67.143.118,44931,443,T,O,A,E,25,4096,19,2048",
                                    "1780000000,10.5.16.4,13.67.143.117,44932,443,T,O,A",
                                    "broken",
                                ],
                            }
                        ],
                    }
                ],
            },
        }
    ]
}


def test_flow_logs_of_virtual_networks_are_read(tmp_path: pathlib.Path) -> None:
    flows, account = read_text(tmp_path, json.dumps(VNET))
    assert account.source == "azure"
    assert [seen(flow) for flow in flows] == [
        "10.0.0.6 > 10.0.0.9:443 tcp yes",
        "10.0.0.6 > 10.0.0.9:444 tcp no",
        "10.0.0.8 > 10.0.0.9:22 tcp no denied",
    ]
    assert account.seen == 5
    assert account.is_complete


def test_flow_logs_of_security_groups_are_read_up_to_what_is_broken(tmp_path: pathlib.Path) -> None:
    flows, account = read_text(tmp_path, json.dumps(NSG, indent=2))
    assert account.source == "azure"
    assert [seen(flow) for flow in flows] == [
        "203.0.113.1 > 10.5.16.4:443 udp no denied",
        "10.5.16.4 > 13.67.143.118:443 tcp yes",
        "10.5.16.4 > 13.67.143.117:443 tcp ?",
    ]
    assert account.unreadable == 1


def test_one_record_a_line_is_read_too(tmp_path: pathlib.Path) -> None:
    lines = "\n".join(json.dumps(item) for item in VNET["records"] * 2)
    flows, account = read_text(tmp_path, lines)
    assert len(flows) == 6
    assert account.source == "azure"
