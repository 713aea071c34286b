"""Core ML's protobuf messages, as coremltools ships them, without the cost of importing it.

`import coremltools` takes seconds and reads torch where it is installed; its generated message
modules alone take 50 ms and depend on nothing. They are loaded here as a package of their own. The
message classes are one and the same: protobuf keeps a single pool of them per process, so a message
made here can be given to coremltools and the other way round.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import google.protobuf.message

    class Message(google.protobuf.message.Message):
        """A message; coremltools ships no types of its fields."""

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: object) -> None: ...


_ALIAS = "mlpass.program._coreml_proto"


def _load(module: str) -> ModuleType:
    if _ALIAS not in sys.modules:
        coremltools = importlib.util.find_spec("coremltools")
        if coremltools is None or coremltools.origin is None:
            raise ImportError("mlpass needs coremltools: pip install 'coremltools>=9.0'")
        spec = ModuleSpec(_ALIAS, None, is_package=True)
        spec.submodule_search_locations = [str(Path(coremltools.origin).parent / "proto")]
        sys.modules[_ALIAS] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{_ALIAS}.{module}")


MIL = _load("MIL_pb2")
Model = _load("Model_pb2").Model
