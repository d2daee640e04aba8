"""What a port takes on, and what it sheds."""

from __future__ import annotations

import pytest

from enforcer.native.limits import RESERVE, Limits, Load
from mesh.problems import Invalid


def code(found: Invalid | None) -> str:
    return found.code if found is not None else ""


def test_one_connection_too_many_is_told_and_far_too_many_find_no_room() -> None:
    load = Load(Limits(connections=2))
    assert [code(load.enter(str(caller))) for caller in range(3)] == ["", "", "LM3303"]
    assert not load.is_full(RESERVE - 2)
    assert load.is_full(RESERVE - 1)
    load.leave("0")
    load.leave("1")
    assert code(load.enter("3")) == ""


def test_one_caller_leaves_room_for_the_others() -> None:
    load = Load(Limits(connections_of_caller=1))
    assert code(load.enter("web")) == ""
    assert code(load.enter("web")) == "LM3304"
    assert code(load.enter("ops")) == ""
    load.leave("web")
    load.leave("web")
    assert code(load.enter("web")) == ""


def test_too_much_memory_takes_on_nothing_new_until_it_is_less() -> None:
    load = Load(Limits(memory_bytes=10))
    load.measure(11)
    assert (code(load.refusal), code(load.enter("web"))) == ("LM3305", "LM3305")
    load.measure(10)
    assert load.refusal is None


def test_what_is_shed_is_counted_together_and_told_once() -> None:
    load = Load(Limits())
    load.shed("LM3306", "10.0.0.1")
    load.shed("LM3306", "10.0.0.2")
    load.shed("LM3303", "10.0.0.3")
    assert load.take_shed() == {"LM3306": (2, "10.0.0.2"), "LM3303": (1, "10.0.0.3")}
    assert load.take_shed() == {}


def test_limits_fit_into_the_descriptors_that_there_are() -> None:
    assert Limits().fitted(1024).connections == 448
    assert Limits().fitted(1_000_000) == Limits()
    assert Limits().fitted(0).connections == 1


def test_limits_are_parsed_as_people_write_them() -> None:
    assert Limits.parse(["connections=5", "head_s=1"]) == {"connections": 5, "head_s": 1}
    for wrong in ("connections", "connection=5", "head_s=0", "head_s=-1", "head_s=1s", "=5", "head_s=\u0661"):
        with pytest.raises(Invalid) as caught:
            Limits.parse([wrong])
        assert caught.value.code == "LM3307"
    with pytest.raises(Invalid):
        Limits.parse(["head_s=1", "head_s=2"])


def test_limits_are_read_strictly() -> None:
    assert Limits.from_json({"connections": 5}) == Limits(connections=5)
    for wrong in ({"connection": 5}, {"head_s": 0}, {"head_s": "5"}, {"head_s": True}):
        with pytest.raises(Invalid) as caught:
            Limits.from_json(wrong)
        assert caught.value.code == "LM3002"
