import pathlib
import stat

import pytest

from mesh.problems import Invalid
from mesh.settings import check_socket_path, prepare_state


def test_the_state_can_be_passed_through_and_its_folders_cannot_be_looked_into(tmp_path: pathlib.Path) -> None:
    state = tmp_path / "deep" / "state"
    prepare_state(state)
    prepare_state(state)
    assert stat.S_IMODE(state.stat().st_mode) == 0o711
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o700}


def test_a_file_in_the_way_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state").write_text("x")
    with pytest.raises(Invalid, match="LM5002"):
        prepare_state(tmp_path / "state")


def test_107_bytes_are_the_longest_socket_path() -> None:
    check_socket_path(pathlib.Path("/" + "x" * 106))
    with pytest.raises(Invalid, match="LM5001"):
        check_socket_path(pathlib.Path("/" + "x" * 107))
    with pytest.raises(Invalid, match="LM5001"):
        check_socket_path(pathlib.Path("/" + "é" * 54))
