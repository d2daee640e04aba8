"""Classic BPF as the kernel runs it (Documentation/networking/filter.rst), for tests without a kernel."""

import operator
import struct

from learner import bpf

MASK = 0xFFFFFFFF


def run(program: bytes, packet: bytes, ancillary: dict[int, int]) -> int:
    """How many bytes of the packet are kept. A load from outside of it drops the packet, as in the kernel."""
    lines = list(struct.iter_unpack("=HBBI", program))
    a = x = at = 0
    memory: dict[int, int] = {}

    def load(place: int, size: int) -> int | None:
        return int.from_bytes(packet[place : place + size], "big") if 0 <= place <= len(packet) - size else None

    while True:
        code, yes, no, k = lines[at]
        at += 1
        if code == bpf.RET:
            return int(k)
        if code == bpf.LD_W_ABS:
            found: int | None = ancillary[k] if k in ancillary else load(k, 4)
        elif code in {bpf.LD_W_IND, bpf.LD_H_IND, bpf.LD_B_IND}:
            found = load(x + k, {bpf.LD_W_IND: 4, bpf.LD_H_IND: 2, bpf.LD_B_IND: 1}[code])
        elif code in {bpf.LD_IMM, bpf.LD_MEM}:
            found = k if code == bpf.LD_IMM else memory[k]
        elif code == bpf.LDX_MEM:
            x, found = memory[k], a
        elif code == bpf.ST:
            memory[k], found = a, a
        elif code == bpf.TAX:
            x, found = a, a
        elif code == bpf.TXA:
            found = x
        elif code == bpf.JA:
            at, found = at + k, a
        elif code in {bpf.JEQ, bpf.JGT, bpf.JGE, bpf.JSET}:
            holds = {bpf.JEQ: a == k, bpf.JGT: a > k, bpf.JGE: a >= k, bpf.JSET: bool(a & k)}[code]
            at, found = at + (yes if holds else no), a
        else:
            found = _alu(code, a, x if code in {bpf.ADD_X, bpf.XOR_X} else k) & MASK
        if found is None:
            return 0
        a = found


def _alu(code: int, a: int, operand: int) -> int:
    found: int = {
        bpf.ADD_K: operator.add,
        bpf.ADD_X: operator.add,
        bpf.AND_K: operator.and_,
        bpf.LSH_K: operator.lshift,
        bpf.RSH_K: operator.rshift,
        bpf.MUL_K: operator.mul,
        bpf.MOD_K: operator.mod,
        bpf.XOR_K: operator.xor,
        bpf.XOR_X: operator.xor,
    }[code](a, operand)
    return found
