"""What a custom rule may be made of: tokens, and the plan that an engine compiled."""

from collections.abc import Iterator

import pytest

from policyengine.rego import Engine, RegoError, Source
from policyengine.regocheck import check_plan, check_text, is_rule_path, package_of

ROOTS = frozenset({"shop"})


def reasons(source: str) -> list[str]:
    return [item.reason for item in check_text(source, ROOTS)]


def program(body: str) -> Source:
    return Source(modules={"m.rego": f"package shop\n{body}\n"}, data={}, entrypoints=("shop/x",), strict=True)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(program("x := 1"), deadline_s=5.0) as found:
        yield found


def plan_reasons(engine: Engine, body: str) -> tuple[str, ...]:
    engine.replace(program(body))
    try:
        engine.load()
    except RegoError:
        assert engine.refused
    return engine.refused


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("package shop\n\nx if input.port == 1\n", id="plain"),
        pytest.param('# with data\npackage shop.sub\nx := "with data"\ny := `with data`\n', id="comments-and-text"),
        pytest.param("package shop\nimport rego.v1\nimport data.shop.lib\nx if lib.ok\n", id="imports"),
        pytest.param("package shop\nx if input.data == 1\ny if input.with == 1\n", id="fields-of-these-names"),
    ],
)
def test_allowed_text(source: str) -> None:
    assert reasons(source) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param("x := 1", "begins with `package", id="no-package"),
        pytest.param("package limen.authz\nx := 1", "reserved", id="limens-own-package"),
        pytest.param("package system.log\nx := 1", "reserved", id="OPAs-own-package"),
        pytest.param("package shop\nx if y with input as 1", "`with`", id="with-input"),
        pytest.param("package shop\nx if count(1) with count as f", "`with`", id="CVE-2022-36085-with-function"),
        pytest.param("package shop\nx := data", "`data`", id="all-data"),
        pytest.param("package shop\nx := data[input.a]", "`data`", id="computed-data"),
        pytest.param("package shop\nx := data.limen.release", "`data`", id="limens-data"),
        pytest.param("package shop\nimport data.other as o\nx := o.y", "`data`", id="import-of-another-root"),
        pytest.param("package shop\nimport schema.x", "imports", id="import-of-a-schema"),
        pytest.param("package shop\n" + "# x\n" * 20000, "bytes long", id="too-long"),
    ],
)
def test_refused_text(source: str, reason: str) -> None:
    assert any(reason in found for found in reasons(source))


def test_a_finding_has_its_line() -> None:
    (found,) = check_text("package shop\n\nx if {\n\ty with input as 1\n}\n", ROOTS)
    assert found.line == 4


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("x if input.port == 1", id="comparison"),
        pytest.param('x if "admin" in input.claims.roles', id="membership"),
        pytest.param('x if regex.match("^a", concat("/", input.path))', id="text"),
        pytest.param('x if time.weekday(input.time) == "Monday"', id="time-of-the-input"),
        pytest.param("x if y(input.port)\ny(n) if n > 3", id="functions"),
    ],
)
def test_allowed_plan(engine: Engine, body: str) -> None:
    assert plan_reasons(engine, body) == ()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param('x if http.send({"method": "get", "url": "http://a"})', "http.send", id="network"),
        pytest.param("x if opa.runtime()", "opa.runtime", id="environment"),
        pytest.param("x if time.now_ns() > 1", "time.now_ns", id="clock"),
        pytest.param('x if rand.intn("a", 2) == 1', "rand.intn", id="randomness"),
        pytest.param('x if net.lookup_ip_addr("a")', "net.lookup_ip_addr", id="names"),
        pytest.param('f(y) := http.send({"url": y})\nx if true', "http.send", id="in-a-function-nobody-calls"),
        pytest.param("x if count([1]) == 2 with count as http.send", "http.send", id="CVE-2022-36085"),
        pytest.param("x if y with input as 1\ny := 1", "`with`", id="with"),
        pytest.param("x if data.limen.release", "`data`", id="data-that-is-no-rule"),
        pytest.param("x if data[input.a][input.b]", "`data`", id="computed-root"),
        pytest.param("x if data.shop[input.b]\ny := 1", "computed", id="computed-rule"),
        pytest.param("x if y\ny if x", "depends on itself", id="recursion"),
        pytest.param("x if count(numbers.range(1, 1000000000)) > 1", "numbers.range", id="memory"),
    ],
)
def test_refused_plan(engine: Engine, body: str, reason: str) -> None:
    assert any(reason in found for found in plan_reasons(engine, body))


def test_a_refused_function_is_said_with_the_first_place_that_spells_it() -> None:
    plan = {"static": {"builtin_funcs": [{"name": "http.send"}, {"name": "internal.print"}]}}
    modules = {"b.rego": "package b\nx if http.send({})", "a.rego": '# http.send\npackage a\n\ny := "http.send"'}
    assert list(check_plan(plan, modules=modules)) == [
        "b.rego:2: the function `http.send` is not allowed",
        "the function `internal.print` is not allowed",
    ]


def test_a_plan_of_an_unknown_form_calls_nothing() -> None:
    assert list(check_plan({})) == []


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("data.shop.extra", True),
        ("data.shop.sub.extra", True),
        ("data.shop", False),
        ("data.limen.authz.decision", False),
        ("data.system.x", False),
        ("input.x", False),
        ("data.shop[x]", False),
        ("data.shop.extra ", False),
    ],
)
def test_names_of_rules(text: str, is_path: bool) -> None:
    assert is_rule_path(text) is is_path


def test_package_of_a_module() -> None:
    assert package_of("# c\npackage shop.extra # d\nx := 1") == "shop.extra"
    assert package_of("package shop\nimport rego.v1") == "shop"
    assert package_of('package shop["a"]') == "shop"
    assert package_of("") is None
