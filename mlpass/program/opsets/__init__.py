"""Raising a program to a newer opset: what changed from each to the next, and the rewrites."""
