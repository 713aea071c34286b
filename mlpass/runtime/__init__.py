"""Running MIL programs."""
