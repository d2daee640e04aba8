import html.parser

from audit.evidence import page, table

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


def tags(text: str) -> Tags:
    found = Tags()
    found.feed(text)
    return found


def test_what_a_record_says_is_text_and_never_markup() -> None:
    row = dict.fromkeys(
        ("index", "time", "kind", "decision", "caller", "destination", "method", "path", "code", "id"), EVIL
    )
    text = page(
        title=EVIL,
        facts=[(EVIL, EVIL)],
        releases=[(EVIL,) * 6],
        counts=[(EVIL,) * 5],
        rows=[row],
        total=1,
    )
    found = tags(text)
    assert not found.found & {"script", "img", "link", "iframe", "object", "form"}
    assert not any(name.startswith("on") or name in {"src", "href"} for name in found.attributes)
    assert "default-src 'none'" in text.replace("&#x27;", "'")


def test_a_page_says_when_it_shows_not_all() -> None:
    parts = {"title": "t", "facts": [], "releases": [], "counts": []}
    row = {"index": 1, "time": "t", "kind": "k", "id": "i"}
    assert "The first 1 of 7" in page(**parts, rows=[row], total=7)  # type: ignore[arg-type]
    assert "The first" not in page(**parts, rows=[row], total=1)  # type: ignore[arg-type]


def test_nothing_is_a_dash() -> None:
    assert "<td>-</td>" in table(("a",), [(None,)])
