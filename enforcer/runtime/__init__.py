"""What a container's own runtime, and its kubelet, say of it: facts for identity rules (design D7)."""
