import datetime as dt

from limen.logins import AGAIN, MAX_KNOWN, REFUSED_AGAIN, Logins
from mesh.clock import ManualClock

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


class Seen(list[tuple[str, str, dict[str, object]]]):
    def __call__(self, kind: str, actor: str, **fields: object) -> None:
        self.append((kind, actor, fields))


def test_each_who_comes_in_is_recorded_once_in_a_while() -> None:
    seen, clock = Seen(), ManualClock(NOW)
    logins = Logins(seen, clock)
    for _ in range(3):
        logins.came("server.sock", "unix:uid:0")
    logins.came("server.sock", "unix:uid:7")
    logins.came("limen-authzen", "unix:uid:0")
    assert [(actor, fields["door"]) for _, actor, fields in seen] == [
        ("unix:uid:0", "server.sock"), ("unix:uid:7", "server.sock"), ("unix:uid:0", "limen-authzen"),
    ]  # fmt: skip
    clock.advance(AGAIN)
    logins.came("server.sock", "unix:uid:0")
    assert len(seen) == 4
    # a clock that was set back hides nobody
    clock.advance(-dt.timedelta(days=1))
    logins.came("server.sock", "unix:uid:0")
    assert len(seen) == 5


def test_strangers_are_counted_and_make_few_records() -> None:
    seen, clock = Seen(), ManualClock(NOW)
    logins = Logins(seen, clock)
    for _ in range(100):
        logins.refused("limen-authzen", "LM2641")
    clock.advance(REFUSED_AGAIN)
    logins.refused("limen-authzen", "LM2641")
    assert [fields["tries"] for _, _, fields in seen] == [1, 100]


def test_what_is_remembered_is_bounded() -> None:
    seen = Seen()
    logins = Logins(seen, ManualClock(NOW))
    for number in range(MAX_KNOWN + 1):
        logins.came("d", str(number))
    logins.came("d", "0")
    logins.came("d", str(MAX_KNOWN))
    assert len(seen) == MAX_KNOWN + 2
