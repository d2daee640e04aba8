"""The forms that records leave in."""
