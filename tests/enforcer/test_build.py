import os
import pathlib

from enforcer.build import build_of


def test_any_change_of_a_module_is_another_build_and_nothing_else_is(tmp_path: pathlib.Path) -> None:
    for name in ("enforcer", "mesh", "policyengine/inner"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.py").write_text("x = 1\n")
    first = build_of(tmp_path)
    (tmp_path / "mesh" / "notes.txt").write_text("no module")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.py").write_text("")
    assert build_of(tmp_path) == first
    path = tmp_path / "policyengine" / "inner" / "a.py"
    stat = path.stat()
    path.write_text("x = 10\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = build_of(tmp_path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    third = build_of(tmp_path)
    path.unlink()
    assert len({first, second, third, build_of(tmp_path)}) == 4


def test_the_build_of_what_runs_is_the_same_as_long_as_nobody_changes_it() -> None:
    assert build_of() == build_of()
