"""Where exported records go."""
