import pathlib

from limen.acme.file import AcmeFile


def test_a_file_with_an_error_changes_nothing(tmp_path: pathlib.Path) -> None:
    found = AcmeFile(tmp_path)
    assert found.read().binding
    (tmp_path / "acme.yaml").write_text("binding: optional\nnames: [test]\n")
    assert not found.read().binding
    (tmp_path / "acme.yaml").write_text("binding: optional\n")
    assert found.read().names == ("test",)
    (tmp_path / "acme.yaml").unlink()
    assert found.read().binding
