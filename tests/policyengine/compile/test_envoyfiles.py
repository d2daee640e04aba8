"""The parts around a matcher: what a setting is for, as far as it can be seen without an Envoy."""

from policyengine.compile import envoyfiles as files
from policyengine.compile.envoymatch import PATH_KEY

MATCHER = {"on_no_match": {}}


def manager(protocol: str = "http"):
    (found,) = files.http_chain("db", protocol, MATCHER, {"route": {"cluster": "app"}})  # type: ignore[arg-type]
    return found["typed_config"]


def test_nothing_but_slashes_is_rewritten_before_it_is_decided() -> None:
    found = manager()
    assert (found["normalize_path"], found["merge_slashes"]) == (False, True)
    assert found["path_with_escaped_slashes_action"] == "REJECT_REQUEST"


def test_what_could_be_read_in_two_ways_is_refused_by_the_codec() -> None:
    found = manager()
    assert found["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"
    assert found["http_protocol_options"] == {"allow_absolute_url": False, "accept_http_10": False}
    assert "upgrade_configs" not in found


def test_who_calls_is_the_certificate() -> None:
    found = manager()
    assert (found["forward_client_cert_details"], found["xff_num_trusted_hops"]) == ("SANITIZE_SET", 0)


def test_a_port_speaks_one_protocol() -> None:
    assert [manager(kind)["codec_type"] for kind in ("http", "grpc")] == ["HTTP1", "HTTP2"]


def test_the_matcher_stands_between_the_path_and_the_application() -> None:
    names = [item["name"] for item in manager()["http_filters"]]
    assert names == ["path", "limen", "router"]
    assert manager()["http_filters"][0]["typed_config"]["on_request_headers"][0]["object_key"] == PATH_KEY


def test_an_application_that_speaks_first_waits_for_the_decision() -> None:
    chain = files.tcp_chain("db", MATCHER, files.tcp_proxy("db", "app"))
    assert [item["name"] for item in chain] == ["limen", "app"]
    assert chain[1]["typed_config"]["upstream_connect_mode"] == "ON_DOWNSTREAM_DATA"
