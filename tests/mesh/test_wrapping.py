import pathlib
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.problems import Invalid
from mesh.wrapping import WrappingKey, load_wrapping_key

KEY = WrappingKey(bytes(32), beside_state=False)


def test_a_secret_comes_back_under_its_own_name_only() -> None:
    wrapped = KEY.wrap("root", b"secret", bytes(12))
    assert KEY.unwrap("root", wrapped) == b"secret"
    assert b"secret" not in wrapped
    for name, key in (("issuing", KEY), ("root", WrappingKey(b"\x01" * 32, beside_state=False))):
        with pytest.raises(Invalid, match="LM1201"):
            key.unwrap(name, wrapped)


@given(st.binary(max_size=80))
def test_any_bytes_that_were_not_wrapped_are_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM1201"):
        KEY.unwrap("root", data)


def test_a_key_is_made_closed_to_others_and_said_to_lie_beside_the_state(tmp_path: pathlib.Path) -> None:
    made = load_wrapping_key(tmp_path, None)
    assert made.beside_state
    assert stat.S_IMODE((tmp_path / "wrap.key").stat().st_mode) == 0o600
    assert load_wrapping_key(tmp_path, None) == made
    assert made.secret.hex() not in repr(made)


def test_a_named_key_file_is_checked(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "k"
    with pytest.raises(Invalid, match="LM1202"):
        load_wrapping_key(tmp_path, path)
    path.write_bytes(bytes(31))
    path.chmod(0o600)
    with pytest.raises(Invalid, match="LM1202"):
        load_wrapping_key(tmp_path, path)
    path.write_bytes(bytes(32))
    path.chmod(0o644)
    with pytest.raises(Invalid, match="LM1202"):
        load_wrapping_key(tmp_path, path)
    path.chmod(0o600)
    assert not load_wrapping_key(tmp_path, path).beside_state


def test_a_key_file_is_there_whole_or_not_at_all_and_the_first_one_stays(tmp_path: pathlib.Path) -> None:
    made: list[WrappingKey] = []
    start = threading.Barrier(4)

    def open_one() -> None:
        start.wait()
        made.append(load_wrapping_key(tmp_path, None))

    threads = [threading.Thread(target=open_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.secret for key in made}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["wrap.key"]


@pytest.mark.parametrize("data", [b"", bytes(33), bytes(1 << 16)], ids=["empty", "one-more", "much-more"])
def test_a_key_file_of_another_size_is_refused(tmp_path: pathlib.Path, data: bytes) -> None:
    path = tmp_path / "wrap.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(Invalid, match="LM1202"):
        load_wrapping_key(tmp_path, None)
