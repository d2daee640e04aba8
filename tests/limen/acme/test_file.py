import pathlib

import pytest

from limen.acme.file import AcmeFile
from limen.checks.files import files


def test_a_file_with_an_error_changes_nothing(tmp_path: pathlib.Path) -> None:
    found = AcmeFile(tmp_path)
    assert found.read().binding
    (tmp_path / "acme.yaml").write_text("binding: optional\nnames: [test]\n")
    assert not found.read().binding
    (tmp_path / "acme.yaml").write_text("binding: optional\n")
    assert found.read().names == ("test",)
    (tmp_path / "acme.yaml").unlink()
    assert found.read().binding


@pytest.mark.parametrize(
    "text", [b"names: [x\n", b"nams: [x]\n", b"- 1\n", b"\xff"], ids=["no-yaml", "unknown-key", "no-map", "no-utf-8"]
)
def test_what_is_wrong_with_the_file_is_seen_in_check_until_it_is_mended(tmp_path: pathlib.Path, text: bytes) -> None:
    path = tmp_path / "acme.yaml"
    file = AcmeFile(tmp_path)
    assert [item.level for item in files([file.report()])] == ["ok"]
    path.write_bytes(text)
    (found,) = files([file.report()])
    assert (found.level, str(path) in found.text) == ("error", True)
    path.write_text("names: [corp.test]\n")
    (found,) = files([file.report()])
    assert (found.level, found.text) == ("ok", "acme.yaml is in force: 1 names")
