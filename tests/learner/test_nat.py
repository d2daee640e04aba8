import datetime as dt
import pathlib

from learner.nat import Translations, read_translations
from learner.sources.conntrack import Entry
from mesh.flow import Flow
from mesh.problems import Diagnostic
from tests.learner.sources.accounts import DATA

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
VIP, POD, OTHER = ("10.96.0.1", 80), ("10.244.0.8", 8080), ("10.244.0.9", 8080)


def entry(caller: tuple[str, int], called: tuple[str, int], answered: tuple[str, int], seen: tuple[str, int]) -> Entry:
    return Entry(
        protocol="tcp",
        original=(*caller, *called),
        reply=(*answered, *seen),
        event="NEW",
        state="ESTABLISHED",
        is_unreplied=False,
        is_assured=True,
        at=NOW,
    )


def own(
    known: Translations, source: str, destination: tuple[str, int], source_port: int | None = None
) -> tuple[object, ...]:
    flow = Flow(
        start=NOW,
        source_ip=source,
        source_port=source_port,
        destination_ip=destination[0],
        destination_port=destination[1],
        protocol="tcp",
    )
    (found,) = known.apply([flow])
    return found.source_ip, found.destination_ip, found.destination_port


def test_a_service_s_address_is_that_of_who_answered() -> None:
    known = Translations([entry(("10.0.0.1", 4000), VIP, POD, ("10.0.0.1", 4000))])
    assert own(known, "10.0.0.1", VIP) == ("10.0.0.1", *POD)
    assert own(known, "10.0.0.7", VIP) == ("10.0.0.7", *POD)
    assert own(known, "10.0.0.1", ("10.96.0.2", 80)) == ("10.0.0.1", "10.96.0.2", 80)


def test_an_address_that_several_answer_for_is_told_by_the_caller_or_not_at_all() -> None:
    known = Translations(
        [
            entry(("10.0.0.1", 4000), VIP, POD, ("10.0.0.1", 4000)),
            entry(("10.0.0.2", 4000), VIP, OTHER, ("10.0.0.2", 4000)),
        ]
    )
    assert own(known, "10.0.0.1", VIP) == ("10.0.0.1", *POD)
    assert own(known, "10.0.0.2", VIP) == ("10.0.0.2", *OTHER)
    assert own(known, "10.0.0.3", VIP) == ("10.0.0.3", *VIP)


def test_a_caller_behind_a_gateway_is_told_by_its_port_or_if_it_is_the_only_one() -> None:
    gateway = "192.0.2.1"
    known = Translations([entry(("10.0.0.1", 4000), POD, POD, (gateway, 61000))])
    assert own(known, gateway, POD) == ("10.0.0.1", *POD)
    known.add(entry(("10.0.0.2", 4000), POD, POD, (gateway, 61001)))
    assert own(known, gateway, POD) == (gateway, *POD)
    assert own(known, gateway, POD, 61000) == ("10.0.0.1", *POD)
    assert own(known, gateway, POD, 61001) == ("10.0.0.2", *POD)
    assert own(known, gateway, POD, 61002) == (gateway, *POD)


def test_both_sides_are_translated_at_once() -> None:
    known = Translations([entry(("10.0.0.1", 4000), VIP, POD, ("192.0.2.1", 61000))])
    assert own(known, "192.0.2.1", VIP, 61000) == ("10.0.0.1", *POD)


def test_what_conntrack_printed_is_read_and_broken_lines_are_findings(tmp_path: pathlib.Path) -> None:
    findings: list[Diagnostic] = []
    for name in ("events.txt", "table.xml"):
        known = read_translations(DATA / "conntrack" / name, findings)
        assert own(known, "10.96.0.1", VIP) == ("10.96.0.1", "127.0.0.1", 18080)
    assert findings == []
    (tmp_path / "x").write_text("nonsense\nicmp 1 29 src=1.1.1.1 dst=1.1.1.1\n")
    read_translations(tmp_path / "x", findings)
    assert [item.code for item in findings] == ["LM4013"]


def test_without_translations_flows_are_as_they_were() -> None:
    assert own(Translations(), "10.0.0.1", VIP) == ("10.0.0.1", *VIP)
