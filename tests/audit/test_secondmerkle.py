"""A second implementation from PyPI, pymerkle, agrees on every root and proof of trees of up to 40 leaves."""

from pymerkle import InmemoryTree, verify_consistency, verify_inclusion

from audit.merkle import (
    consistency_proof,
    fold,
    inclusion_proof,
    leaf_hash,
    root_hash,
)
from audit.merkle import (
    verify_consistency as ours_verifies,
)

SIZE = 40
LEAVES = [bytes([number]) * number for number in range(SIZE)]
HASHES = [leaf_hash(item) for item in LEAVES]


def subtree(level: int, index: int) -> bytes:
    return fold(HASHES[index << level : (index + 1) << level])


def theirs(size: int) -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    for item in LEAVES[:size]:
        tree.append_entry(item)
    return tree


def test_roots_are_the_same() -> None:
    tree = theirs(0)
    for size, item in enumerate(LEAVES, 1):
        tree.append_entry(item)
        assert tree.get_root() == root_hash(subtree, size)


def test_inclusion_proofs_are_the_same_and_hold_there() -> None:
    tree = theirs(SIZE)
    for size in range(1, SIZE + 1):
        for index in range(size):
            proof = tree.prove_inclusion(index + 1, size)
            path = [bytes.fromhex(item) for item in proof.serialize()["path"]]
            # theirs begins with the leaf itself
            assert path == [HASHES[index], *inclusion_proof(subtree, index, size)]
            verify_inclusion(HASHES[index], root_hash(subtree, size), proof)


def test_consistency_holds_in_both_between_our_roots() -> None:
    tree = theirs(SIZE)
    for new in range(1, SIZE + 1):
        for old in range(1, new + 1):
            proof = tree.prove_consistency(old, new)
            verify_consistency(root_hash(subtree, old), root_hash(subtree, new), proof)
            ours = consistency_proof(subtree, old, new)
            assert ours_verifies(old, new, root_hash(subtree, old), root_hash(subtree, new), ours)
