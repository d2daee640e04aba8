import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.endpoint import target_of, uri_of
from mesh.problems import Invalid


@pytest.mark.parametrize("name", ["a", "with space", "näh", "50%", "a%41", "q?x#y", "[1]"])
def test_what_is_written_is_read_back(name: str) -> None:
    import urllib.parse

    path = pathlib.Path("/run") / name / "agent.sock"
    assert urllib.parse.unquote(target_of(uri_of(path)).removeprefix("unix:")) == str(path)


def test_a_relative_path_is_made_absolute() -> None:
    assert uri_of(pathlib.Path("x.sock")) == f"unix://{pathlib.Path.cwd()}/x.sock"


@given(st.text(max_size=60) | st.text(max_size=40).map("unix://".__add__) | st.text(max_size=40).map("tcp://".__add__))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        target = target_of(text)
    except Invalid as problem:
        assert problem.code == "LM1040"
    else:
        assert target.startswith(("unix:/", "ipv4:", "ipv6:["))


def test_an_address_has_a_bounded_length() -> None:
    with pytest.raises(Invalid, match="LM1040"):
        target_of("unix:///" + "a" * 1024)
