"""The server's HTTP doors: `server.sock` for people on this host, and one TLS port."""
