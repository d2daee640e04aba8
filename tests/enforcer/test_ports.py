from enforcer.ports import Ports


def test_a_sidecar_is_told_where_to_listen_and_where_that_leads() -> None:
    ports = Ports(inbound=(("127.0.0.1", 1, 2),), outbound=((3, "db", None), (4, "db", 5)), egress=("service:db",))
    assert ports.message() == {
        "type": "listeners",
        "inbound": [{"address": "127.0.0.1", "port": 1, "app_port": 2}],
        "outbound": [
            {"local_port": 3, "service": "db", "port": None},
            {"local_port": 4, "service": "db", "port": 5},
        ],
        "egress": ["service:db"],
        "health": [],
    }
