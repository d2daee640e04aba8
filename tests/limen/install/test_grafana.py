"""The dashboard is what Grafana imports."""

import json

from limen.install.grafana import PANELS, dashboard, expressions


def test_every_panel_has_its_place_and_its_lines_their_names() -> None:
    made = json.loads(json.dumps(dashboard()))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in made["panels"]]
    assert len({*places}) == len(places) == len(PANELS)
    assert len({panel["id"] for panel in made["panels"]}) == len(PANELS)
    for panel in made["panels"]:
        names = [target["refId"] for target in panel["targets"]]
        assert names == sorted({*names})
        assert panel["datasource"]["uid"] == "${DS_PROMETHEUS}"
    assert [target["expr"] for panel in made["panels"] for target in panel["targets"]] == [*expressions()]


def test_counters_are_shown_by_what_they_grow() -> None:
    for expression in expressions():
        assert expression.count("(") == expression.count(")")
        for counted in ("_total", "_bucket"):
            assert counted not in expression or "rate(" in expression
