import xml.etree.ElementTree as ET

from learner.figure import Arrow, coverage_svg, days_of, graph_svg
from learner.history import History
from learner.propose import propose_from
from tests.learner import worlds


def test_coverage_grows_day_by_day() -> None:
    history = History()
    history.add(worlds.shop())
    days = days_of(propose_from(history).units)
    assert days[0].covered == 0
    assert days[-1].covered == days[-1].sessions
    assert days[0].kinds == days[-1].kinds
    root = ET.fromstring(coverage_svg(days, "<b>"))
    assert root.tag.endswith("svg")
    assert days_of(()) == []
    ET.fromstring(coverage_svg([], "nothing"))


def test_the_graph_escapes_names_and_marks_what_is_quarantined() -> None:
    text = graph_svg([Arrow("a<b", "c&d", ":1"), Arrow("x", "c&d", ":2", is_quarantined=True)], "who")
    root = ET.fromstring(text)
    titles = [item.text for item in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "a<b → c&d :1" in titles
    assert text.count("stroke-dasharray") == 1


def test_cycles_and_calls_to_oneself_are_drawn() -> None:
    ET.fromstring(graph_svg([Arrow("a", "b", ""), Arrow("b", "a", ""), Arrow("a", "a", "")], "cycle"))
