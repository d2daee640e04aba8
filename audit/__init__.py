"""What happened, provably: records, spool, Merkle log, proofs, exports."""
