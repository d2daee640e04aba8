import pytest

from mesh.der import header, wrap


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff"), (256, "04820100"), (65536, "0483010000")],
)
def test_lengths_have_their_shortest_form(size: int, head: str) -> None:
    assert header(0x04, size) == bytes.fromhex(head)
    assert wrap(0x04, bytes(size)) == bytes.fromhex(head) + bytes(size)
