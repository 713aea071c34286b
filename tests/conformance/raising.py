"""Every model that coremltools' tests predict with, raised to every newer opset and run again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.models import MLModel

from mlpass.errors import ExecutionError, UnsupportedOpError
from mlpass.program.mlpackage import Package
from mlpass.program.opsets.packages import raise_package
from mlpass.runtime.interpreter import Interpreter

RAISES = os.environ.get("MLPASS_CONFORMANCE_RAISE") == "1"
NEWER = (16, 17, 18, 26)

raised: list[str] = []  # in this test: "15 -> 16", and "refused: ..." where one cannot be


def check_raised(model: Any, data: Mapping[str, Any]) -> None:
    """Fails where a model raised makes what it did not before, or coremltools does not load it."""
    if not RAISES or not model.is_package or model.get_spec().specificationVersion >= 9:
        return
    with Package(model.package_path) as package:
        (program,) = package.programs
    random = any(
        op.type.startswith("random_")
        for function in program.functions.values()
        for op in function.block.walk()
    )
    try:
        _load(Path(model.package_path))
    except NotImplementedError:  # it has no words for unknown sizes of its own
        loads = False
    else:
        loads = True
    try:
        before = Interpreter(model).predict(data)
    except ExecutionError:  # a test of what must fail
        return
    for opset in NEWER:
        if opset <= program.opset:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "raised.mlpackage")
            try:
                with Package(model.package_path) as package:
                    raise_package(package, opset)
                    with package.rewrite(path):
                        pass
            except UnsupportedOpError as error:
                raised.append(f"refused: {error}")
                continue
            again = Interpreter(path).predict(data)
            if loads:
                _load(path)
        raised.append(f"{program.opset} -> {opset}")
        assert before.keys() == again.keys()
        for name in before if not random else ():
            if isinstance(before[name], np.ndarray) and before[name].dtype.kind == "f":
                np.testing.assert_allclose(
                    again[name], before[name], rtol=1e-6, atol=1e-6, err_msg=f"{name}, iOS{opset}"
                )
            elif isinstance(before[name], np.ndarray):
                np.testing.assert_array_equal(again[name], before[name], f"{name}, iOS{opset}")
            else:
                assert again[name] == before[name], f"{name}, iOS{opset}"


def _load(package: Path) -> None:
    """Has coremltools load a package, and infer the type of each of its values."""
    model = MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    assert load(spec, spec.specificationVersion, model.weights_dir).functions
