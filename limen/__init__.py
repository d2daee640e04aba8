"""Every human door: the composition root, the command line, the API, the demo."""
