"""The words that public functions take, for a type checker."""

from __future__ import annotations

from typing import Literal

Integers = Literal["int8", "int4", "uint8", "uint4"]
Runner = Literal["numpy", "torch", "coreml"]
Backend = Literal["numpy", "torch"]  # whose values are seen
Allocate = Literal["uniform", "owl", "error"]
Propagate = Literal["pruned", "dense"]
Target = Literal["own", "dense"]
Fallback = Literal["skip", "magnitude"]
