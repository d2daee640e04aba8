"""Compilers of policy sets for other engines: each answers as `policyengine.decide` does, or says what it cannot."""
