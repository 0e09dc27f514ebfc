"""What several tests use. `tests/` is on the path: `from helpers import given`."""
