import pathlib
import stat

import pytest

from audit.cursor import Cursor
from mesh.problems import Problem


def test_a_cursor_goes_on_where_it_was_saved(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.cursor"
    first = Cursor(path, "corp.test/audit", 5)
    assert (first.next, first.is_new, path.exists()) == (5, True, False)
    first.save(77)
    assert (first.next, first.is_new) == (77, False)
    again = Cursor(path, "corp.test/audit")
    assert (again.next, again.is_new) == (77, False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["a.cursor"]


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b'{"version":2,"origin":"o","next":1}', b'{"version":1,"origin":"o","next":-1}',
     b'{"version":1,"origin":"o","next":true}', b'{"version":1,"origin":"o"',
     b'{"version":1,"origin":"other","next":1}'],
)  # fmt: skip
def test_what_is_no_cursor_of_this_log_is_refused(data: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(Problem) as caught:
        Cursor(tmp_path / "a", "o")
    assert caught.value.code == "LM6102"


def test_a_disk_that_refuses_moves_nothing(tmp_path: pathlib.Path) -> None:
    cursor = Cursor(tmp_path / "none" / "a", "o")
    with pytest.raises(Problem) as caught:
        cursor.save(3)
    assert (caught.value.code, cursor.next) == ("LM6101", 0)
