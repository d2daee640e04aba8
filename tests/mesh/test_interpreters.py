import pytest

from mesh.interpreters import is_interpreter_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("python3", "python3.11", "bash", "sh", "dash", "node", "perl5.36", "java", "sed")),
        *((name, False) for name in ("cart", "python-app", "nodemon", "", "shop", "javac", "sed2")),
    ],
)
def test_interpreters_are_known_by_their_whole_name(name: str, *, expected: bool) -> None:
    assert is_interpreter_name(name) is expected
