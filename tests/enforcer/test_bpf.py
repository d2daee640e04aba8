import os
import struct

import pytest

from enforcer import bpf
from mesh.problems import Unavailable

is_root = os.geteuid() == 0


def test_an_instruction_is_eight_bytes_with_both_registers_in_one() -> None:
    assert bpf.line(bpf.STORE_64, 10, 6, -8, 0) == bytes.fromhex("7b6af8ff00000000")
    assert len(bpf.load_map(1, 7)) == 16


@pytest.mark.skipif(is_root, reason="root reads all")
def test_without_the_right_the_kernels_error_number_is_named() -> None:
    with pytest.raises(Unavailable, match="LM3407") as caught:
        bpf.make_map(bpf.LRU_HASH, key=8, value=8, entries=4)
    assert "errno 1" in str(caught.value.facts["reason"])


@pytest.mark.root
@pytest.mark.skipif(not is_root, reason="bpf(2) is for root")
def test_a_map_keeps_what_it_is_given_and_its_descriptor_is_closed_by_exec() -> None:
    handle = bpf.make_map(bpf.ARRAY, key=4, value=8, entries=1)
    try:
        bpf.update(handle, struct.pack("=I", 0), struct.pack("=Q", 5))
        assert bpf.look_up(handle, struct.pack("=I", 0), 8) == struct.pack("=Q", 5)
        assert bpf.look_up(handle, struct.pack("=I", 9), 8) is None
        assert not os.get_inheritable(handle)
    finally:
        bpf.close([handle, handle])


@pytest.mark.root
@pytest.mark.skipif(not is_root, reason="bpf(2) is for root")
def test_a_program_that_the_verifier_refuses_is_named_with_the_error() -> None:
    with pytest.raises(Unavailable, match=r"program: .* \(errno \d+\)"):
        bpf.load(18, 10, bpf.line(bpf.MOVE_VALUE, 0, value=7) + bpf.line(bpf.EXIT))
