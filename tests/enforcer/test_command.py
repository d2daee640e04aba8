import pathlib
import sys

import pytest

from enforcer.command import is_interpreter, resolve
from mesh.problems import Invalid

ENV = {"PATH": "/usr/bin:/bin"}


def script(folder: pathlib.Path, name: str, first: str) -> pathlib.Path:
    path = folder / name
    path.write_text(first + "\n", "utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("argv", "index"),
    [
        (("python3", "app.py", "a"), 1),
        (("python3", "-u", "app.py"), 2),
        (("python3", "-X", "dev", "-W", "error", "app.py"), 5),
        (("python3", "-m", "http.server"), None),
        (("python3", "-c", "print(1)"), None),
        (("python3", "-cprint(1)"), None),
        (("python3", "-"), None),
        (("python3",), None),
        (("sh", "x.sh"), 1),
        (("sh", "-x", "x.sh"), None),
        (("cat", "app.py"), None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_script_of_an_interpreter_is_the_first_word_that_is_no_option(
    argv: tuple[str, ...], index: int | None
) -> None:
    assert resolve(argv, "/", ENV).script == index


def test_interpreters_are_known_by_their_resolved_name(tmp_path: pathlib.Path) -> None:
    link = tmp_path / "innocent"
    link.symlink_to(sys.executable)
    assert is_interpreter(str(link))
    assert is_interpreter("/usr/bin/python3.11")
    assert not is_interpreter("/usr/bin/cat")


def test_a_shebang_is_followed_to_its_interpreter(tmp_path: pathlib.Path) -> None:
    path = script(tmp_path, "app", "#!/bin/sh")
    found = resolve(("./app", "x"), str(tmp_path), ENV)
    assert (found.argv, found.script) == (("/bin/sh", str(path), "x"), 1)
    path = script(tmp_path, "app2", "#!/usr/bin/env sh")
    found = resolve(("./app2",), str(tmp_path), ENV)
    assert found.argv[1] == str(path)
    assert found.executable.endswith("/sh")


@pytest.mark.parametrize("first", ["#!", "#!/usr/bin/env -S python3 -u", "#!/usr/bin/env A=1 sh"], ids=str)
def test_a_shebang_that_cannot_be_followed_is_refused(first: str, tmp_path: pathlib.Path) -> None:
    script(tmp_path, "app", first)
    with pytest.raises(Invalid, match="LM3431"):
        resolve(("./app",), str(tmp_path), ENV)


def test_endless_shebangs_end(tmp_path: pathlib.Path) -> None:
    script(tmp_path, "app", f"#!{tmp_path}/app")
    with pytest.raises(Invalid, match="LM3431"):
        resolve(("./app",), str(tmp_path), ENV)


def test_what_is_not_there_is_refused() -> None:
    for argv in ((), ("nope",), ("./nope",)):
        with pytest.raises(Invalid, match="LM3430"):
            resolve(argv, "/", ENV)


@pytest.mark.parametrize("words", [("env", "X=1", "cat"), ("nice", "cat"), ("timeout", "5", "cat")], ids=" ".join)
def test_a_program_that_executes_another_is_refused_with_what_to_write_instead(words: tuple[str, ...]) -> None:
    with pytest.raises(Invalid, match="LM3435") as caught:
        resolve(words, "/", {"PATH": "/usr/bin:/bin"})
    assert caught.value.help.startswith(f"turn it round: `{words[0]} … limen run")
