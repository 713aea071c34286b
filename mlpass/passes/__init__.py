"""Passes: plan what becomes of each weight site, and carry it out."""
