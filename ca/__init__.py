"""The authority: keys, issuing, identity rules. Nothing outside `limen` imports it."""
