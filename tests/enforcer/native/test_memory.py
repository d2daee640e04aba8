"""The memory of a process, as the kernel counts it."""

from __future__ import annotations

from enforcer.native.memory import give_back_memory, resident_bytes


def test_memory_that_is_used_is_counted_and_given_back() -> None:
    before = resident_bytes()
    held = [bytes(65_536) for _ in range(1024)]
    for piece in held:
        assert piece[0] == 0
    filled = [b"x" * 65_536 for _ in range(1024)]
    full = resident_bytes()
    assert full > before + 48 * 1024 * 1024
    del held, filled
    give_back_memory()
    assert resident_bytes() < full - 32 * 1024 * 1024
