import pytest

from learner.history import History
from learner.propose import propose_from
from learner.specs import SpecError, Specs, read_spec
from tests.learner.worlds import NS, START, flow

OPENAPI = """
openapi: 3.1.0
servers: [{url: "https://api.test/v1"}]
paths:
  /users/{userId}:
    parameters: [{name: userId, in: path, required: true, schema: {type: integer}}]
    get: {responses: {}}
  /users/me:
    get: {responses: {}}
"""
PROTO = """
syntax = "proto3"; // service Not { rpc A(
package shop.v1;
service Cart {
  rpc Get(GetRequest) returns (GetReply) { option (x) = {get: "/y"}; }
  rpc Add (AddRequest) returns (stream AddReply);
}
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  rules:
  - matches:
    - {path: {type: Exact, value: /checkout}, method: POST}
    - {path: {type: PathPrefix, value: /api}}
"""


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (OPENAPI, "o.yaml", {("GET", "/v1/users/{userId:int}"), ("GET", "/v1/users/me")}),
        (PROTO, "c.proto", {("", "/shop.v1.Cart/Get"), ("", "/shop.v1.Cart/Add")}),
        (ROUTE, "r.yaml", {("POST", "/checkout"), ("", "/api")}),
    ],
    ids=["openapi", "proto", "httproute"],
)
def test_each_form_gives_templates(text: str, name: str, expected: set[tuple[str, str]]) -> None:
    assert {(item.method, item.template) for item in read_spec(text, name)} == expected


@pytest.mark.parametrize("text", ["a: 1\n", "openapi: 3.0.0\npaths: 1\n", "message X {}\n", "[\n"], ids=range(4))
def test_what_is_none_says_why(text: str) -> None:
    with pytest.raises(SpecError):
        read_spec(text, "x.proto" if "message" in text else "x.yaml")


def test_the_most_literal_template_wins() -> None:
    specs = Specs(("db", item) for item in read_spec(OPENAPI, "o.yaml"))
    assert specs.template(f"{NS}db", 1, "GET", "/v1/users/me") == "/v1/users/me"
    assert specs.template(f"{NS}db", 1, "GET", "/v1/users/7") == "/v1/users/{userId:int}"
    assert specs.template(f"{NS}db", 1, "PUT", "/v1/users/7") is None
    assert specs.template(f"{NS}web", 1, "GET", "/v1/users/7") is None


def test_a_specification_wins_over_what_is_learned() -> None:
    history = History()
    history.add([flow("web", "db", START, path="/v1/users/7"), flow("web", "db", START, path="/else/7")])
    specs = Specs(("", item) for item in read_spec(OPENAPI, "o.yaml"))
    (service,) = propose_from(history, None, specs).services
    assert service.rules[0].grants[0].operations == (("GET", ("/else/7", "/v1/users/{userId:int}")),)
