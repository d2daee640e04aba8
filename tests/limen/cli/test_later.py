import pytest

from limen.__main__ import run


@pytest.mark.parametrize("arguments", [["install", "kubernetes"], ["install", "kubernetes", "-x"]], ids=str)
def test_commands_of_later_versions_exit_2_with_their_code(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    found = capsys.readouterr()
    assert "LM0001" in found.err
    assert found.out == ""
