"""The words that public functions take, for a type checker."""

from __future__ import annotations

from typing import Literal

Backend = Literal["numpy", "torch", "coreml"]
Allocate = Literal["uniform", "owl", "error"]
Propagate = Literal["pruned", "dense"]
Target = Literal["own", "dense"]
Fallback = Literal["skip", "magnitude"]
