import datetime as dt
from collections.abc import Iterator

import pytest

from limen.checks.authorities import GRACE, acme_authorities, authorities
from mesh.clock import format_time
from tests.world import World, make_world

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def listing(*, renews: dt.timedelta, prepared: bool = False, behind: tuple[str, ...] = ()) -> dict[str, object]:
    active = {
        "id": "a1",
        "kind": "issuing",
        "state": "active",
        "not_after": format_time(NOW + 9 * DAY),
        "renews_at": format_time(NOW + renews),
    }
    rows = [active, {**active, "id": "a0", "state": "old", "not_after": format_time(NOW - DAY)}]
    if prepared:
        rows.append({**active, "id": "a2", "state": "prepared"})
    return {"authorities": rows, "agents_behind": list(behind), "sequence": 4}


@pytest.mark.parametrize(
    ("renews", "prepared", "level"),
    [
        (DAY, False, "ok"),
        (-GRACE, False, "ok"),
        (-2 * GRACE, False, "error"),
        (-2 * GRACE, True, "ok"),
    ],
    ids=["early", "just-due", "overdue", "prepared"],
)
def test_what_signs_and_has_no_successor_in_time_is_an_error_days_before_it_ends(
    renews: dt.timedelta, prepared: bool, level: str
) -> None:
    (found,) = authorities(listing(renews=renews, prepared=prepared), NOW)
    assert (found.level, found.code) == (level, "LM1314" if level == "error" else "")
    assert "ends in 9 days" in found.text


@pytest.mark.parametrize(
    ("kind", "upstream", "hint"),
    [("issuing", "offline", "upstream csr"), ("root", "disk", "above"), ("issuing", "disk", "rotate issuing")],
)
def test_where_people_have_to_act_they_are_told_what_to_do(kind: str, upstream: str, hint: str) -> None:
    rows = listing(renews=-2 * GRACE)
    rows["authorities"][0]["kind"], rows["upstream"] = kind, upstream  # type: ignore[index]
    (found,) = authorities(rows, NOW)
    assert (found.code, hint in found.hint) == ("LM1314", True)


def test_an_authority_above_that_does_not_help_is_told_long_before_it_is_needed() -> None:
    rows = {**listing(renews=DAY), "upstream": "limen", "upstream_problem": "LM3444: nobody answers"}
    found = authorities(rows, NOW)
    assert [(item.level, item.code) for item in found] == [("ok", ""), ("warning", "LM1613")]
    assert "nobody answers" in found[1].text
    assert len(authorities({**rows, "upstream_problem": ""}, NOW)) == 1


def test_authorities_that_agents_cannot_verify_are_told() -> None:
    rows = listing(renews=DAY)
    rows["authorities"][0]["algorithm"] = "ml-dsa-65"  # type: ignore[index]
    assert [(item.level, item.code) for item in authorities(rows, NOW)] == [("ok", ""), ("warning", "LM1318")]


def test_agents_that_are_behind_are_told() -> None:
    _, found = authorities(listing(renews=DAY, behind=("n1", "n2")), NOW)
    assert (found.level, "n1, n2" in found.text) == ("warning", True)


def test_it_reads_what_the_server_says(world: World) -> None:
    found = authorities(world.app.authorities.list(), world.clock.now())
    assert [item.level for item in found] == ["ok"] * 3


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = make_world(tmp_path_factory.mktemp("w") / "state")
    yield made
    made.app.close()


@pytest.mark.parametrize(
    ("root", "issuing", "levels"),
    [(3000, 200, ["ok", "ok"]), (3000, 99, ["ok", "error"]), (399, 200, ["error", "ok"])],
    ids=["early", "issuing-not-renewed", "root-ends"],
)
def test_an_acme_authority_that_ends_soon_is_an_error_while_there_is_time(
    root: int, issuing: int, levels: list[str]
) -> None:
    status = {"root_not_after": format_time(NOW + root * DAY), "issuing_not_after": format_time(NOW + issuing * DAY)}
    found = acme_authorities(status, NOW)
    assert [item.level for item in found] == levels
    assert all(item.hint for item in found if item.level == "error")


@pytest.mark.parametrize(
    ("left", "level"),
    [(30, "ok"), (20, "warning"), (10, "error"), (-1, "error")],
    ids=["renewed", "late", "end", "over"],
)
def test_a_web_certificate_that_nobody_renews_is_told_before_it_ends(left: int, level: str) -> None:
    life = {"not_before": format_time(NOW + (left - 90) * DAY), "not_after": format_time(NOW + left * DAY)}
    found = authorities({**listing(renews=DAY), "web": life}, NOW)[-1]
    assert (found.level, f"ends in {max(0, left)} days" in found.text) == (level, True)
    assert found.code == ("" if level == "ok" else "LM1521")
