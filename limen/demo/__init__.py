"""The demo: the whole loop with real processes, real TLS and real traffic on loopback."""
