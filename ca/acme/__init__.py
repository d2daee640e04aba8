"""An ACME (RFC 8555) authority under a root of its own, which is in no SPIFFE bundle."""
