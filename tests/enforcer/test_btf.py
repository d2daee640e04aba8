import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer import btf
from mesh.problems import Unavailable


def made() -> bytes:
    """Types as the kernel writes them: an integer, a structure with two members, a pointer, a function."""
    texts = b"\0int\0task\0pid\0tgid\0look\0"
    at = {name: texts.index(b"\0" + name + b"\0") + 1 for name in (b"int", b"task", b"pid", b"tgid", b"look")}
    types = b"".join(
        (
            struct.pack("=IIII", at[b"int"], 1 << 24, 4, 32),
            struct.pack("=III", at[b"task"], 4 << 24 | 2, 16),
            struct.pack("=III", at[b"pid"], 1, 0),
            struct.pack("=III", at[b"tgid"], 1, 64),
            struct.pack("=III", 0, 2 << 24, 2),
            struct.pack("=III", at[b"look"], 12 << 24, 1),
        )
    )
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(texts)) + types + texts


def test_functions_have_their_number_and_fields_their_offset() -> None:
    found = btf.find(made(), ("look",), ("task.pid", "task.tgid"))
    assert (found.functions, found.fields) == ({"look": 4}, {"task.pid": 0, "task.tgid": 8})


@pytest.mark.parametrize(("functions", "fields"), [(("none",), ()), ((), ("task.none",)), ((), ("none.pid",))])
def test_what_is_not_there_is_named(functions: tuple[str, ...], fields: tuple[str, ...]) -> None:
    with pytest.raises(Unavailable, match=r"LM3407.*none"):
        btf.find(made(), functions, fields)


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", made()[:60], b"\0" * 100, made()[:24] + b"\xff" * 100])
def test_what_is_no_btf_is_refused(data: bytes) -> None:
    with pytest.raises(Unavailable, match="LM3407"):
        btf.find(data, ("look",), ())


@given(st.integers(0, 120), st.binary(min_size=1, max_size=8))
def test_damaged_types_are_refused_or_read(at: int, noise: bytes) -> None:
    data = made()
    try:
        btf.find(data[:at] + noise + data[at + len(noise) :], ("look",), ("task.tgid",))
    except Unavailable:
        return


@pytest.mark.skipif(not btf.VMLINUX.exists(), reason="root reads all, and this kernel does not describe its types")
def test_this_kernel_describes_what_is_asked_for() -> None:
    found = btf.find(btf.VMLINUX.read_bytes(), ("bpf_iter_task_file",), ("task_struct.tgid", "inode.i_ino"))
    assert found.functions["bpf_iter_task_file"] > 0
    assert all(offset > 0 for offset in found.fields.values())
