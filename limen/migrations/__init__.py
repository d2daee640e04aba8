"""How the server's own tables came to be."""
