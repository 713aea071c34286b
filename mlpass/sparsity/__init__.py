"""Masks: pure functions from arrays to arrays, with no idea of programs or files."""
