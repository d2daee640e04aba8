"""Authorities above ours: who signs an issuing certificate, and how what comes back is checked."""
