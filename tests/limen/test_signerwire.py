import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.signerwire import MAX_BYTES, PARTS, pack, read, unpack, write
from mesh.problems import Invalid


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_what_was_packed_is_read_back(parts: list[bytes]) -> None:
    assert unpack(pack(parts)) == parts


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.integers(1, 1000))
def test_bytes_that_are_cut_off_are_no_list_or_a_shorter_one(parts: list[bytes], cut: int) -> None:
    data = pack(parts)[:-cut]
    try:
        assert unpack(data) == parts[: len(unpack(data))]
    except Invalid as problem:
        assert problem.code == "LM5270"


def test_a_message_comes_whole_or_not_at_all() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write(ours, PARTS, b"x" * 1000)
        write(ours, PARTS, b"")
        assert read(theirs) == (PARTS, b"x" * 1000)
        assert read(theirs) == (PARTS, b"")
        ours.close()
        assert read(theirs) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"S\x00", id="half-a-head"),
        pytest.param(struct.pack(">cI", PARTS, 5) + b"abc", id="half-a-message"),
        pytest.param(struct.pack(">cI", PARTS, MAX_BYTES + 1), id="too-large"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.close()
        with pytest.raises(Invalid, match="LM5270"):
            read(theirs)
