"""Kernels: one plain function for each MIL op and opset, from arrays to arrays.

A kernel has MIL's own parameter names, all by keyword: its signature is the op's schema. It takes
the array namespace `xp` (the array API standard) first, so that one text runs under every backend.
"""
