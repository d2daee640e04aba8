import pathlib

import pytest

from limen.exportsfile import Export, ExportsFile, export_from_json, load_exports

WHOLE = """
exports:
- name: siem
  to: syslog+tls://siem.corp.test
  format: cef
  kinds: [decision, ca]
  from: now
  ca: ca.pem
  cert: /etc/c.pem
  cert_key: k.pem
- name: files
  to: file:///var/log/limen/audit.jsonl
  rotate_mb: 5
- {name: lake, to: "s3://bucket/limen?region=eu-1", format: parquet}
"""


def test_every_field_is_read_and_files_are_beside_it() -> None:
    exports, found = load_exports(WHOLE, "/state/exports.yaml")
    assert found == []
    siem, files, lake = exports
    options = siem.destination.options
    assert (siem.name, siem.destination.form, siem.kinds, siem.from_now) == ("siem", "cef", ("decision", "ca"), True)
    assert (options.ca, options.cert, options.cert_key) == (
        pathlib.Path("/state/ca.pem"), pathlib.Path("/etc/c.pem"), pathlib.Path("/state/k.pem"),
    )  # fmt: skip
    assert (files.destination.options.rotate_bytes, files.from_now) == (5 << 20, False)
    assert (lake.destination.scheme, lake.destination.form) == ("s3", "parquet")


def test_what_is_written_down_is_read_back() -> None:
    exports, _ = load_exports(WHOLE, "/state/exports.yaml")
    assert tuple(export_from_json(item.to_json()) for item in exports) == exports


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        ("[]", (1, 1), "map"),
        ("exports: 3", (1, 10), "list"),
        ("export: []", (1, 1), "`export`"),
        ("exports:\n- 3", (2, 3), "map"),
        ("exports:\n- {name: a}", (2, 3), "`to`"),
        ("exports:\n- {to: 'file:///a'}", (2, 3), "`name`"),
        ("exports:\n- {name: A, to: 'file:///a'}", (2, 10), "lower-case"),
        ("exports:\n- {name: a, to: 'ftp://a'}", (2, 17), "scheme"),
        ("exports:\n- {name: a, to: b.jsonl}", (2, 17), "file:///PATH"),
        ("exports:\n- {name: a, to: 'file:///a', format: parquet}", (2, 17), "directory"),
        ("exports:\n- {name: a, to: 'file:///a', from: then}", (2, 36), "beginning"),
        ("exports:\n- {name: a, to: 'file:///a', kinds: []}", (2, 37), "empty"),
        ("exports:\n- {name: a, to: 'file:///a', kinds: [3]}", (2, 38), "word"),
        ("exports:\n- {name: a, to: 'file:///a', rotate_mb: 0}", (2, 41), "rotate_mb"),
        ("exports:\n- {name: a, to: 'file:///a', formt: ocsf}", (2, 30), "did you mean `format`"),
        ("exports:\n- {name: a, to: 'https://u:p@a'}", (2, 17), "secrets are files"),
        ("exports:\n- {name: a, to: 'file:///a'}\n- {name: a, to: 'file:///b'}", (3, 3), "two exports"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(text: str, place: tuple[int, int], word: str) -> None:
    _, (found,) = load_exports(text, "exports.yaml")
    assert found.span is not None
    assert (found.code, (found.span.line, found.span.column)) == ("LM6104", place)
    assert word in found.message


def test_all_that_is_wrong_is_told_at_once() -> None:
    _, found = load_exports("exports:\n- {name: A, to: 'ftp://a', kinds: []}\n- {}", "exports.yaml")
    assert len(found) >= 4


def test_there_are_at_most_64_exports() -> None:
    text = "exports:\n" + "".join(f"- {{name: a{number}, to: 'file:///{number}'}}\n" for number in range(65))
    assert [item.code for item in load_exports(text, "exports.yaml")[1]] == ["LM6104"]


def names(exports: tuple[Export, ...]) -> list[str]:
    return [item.name for item in exports]


def test_a_file_with_an_error_changes_nothing(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "exports.yaml"
    file = ExportsFile(path)
    assert (file.refresh(), file.is_there) == (False, False)
    path.write_text("exports: [{name: a, to: 'file:///a'}]")
    assert (file.refresh(), file.refresh(), names(file.exports), file.is_there) == (True, False, ["a"], True)
    path.write_text("exports: [{name: a, to: 'file:///a'}, {name: B}]")
    assert (file.refresh(), names(file.exports), file.report()["in_force"]) == (False, ["a"], False)
    path.write_bytes(b"\xff")
    assert (file.refresh(), names(file.exports)) == (False, ["a"])
    path.unlink()
    assert (file.refresh(), names(file.exports)) == (True, [])
