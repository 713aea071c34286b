"""Programs of an old opset, raised: what they make before and after, and what coremltools reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb

from mlpass.program.mlpackage import Package
from mlpass.program.opsets.packages import raise_package
from mlpass.runtime.interpreter import Interpreter
from tests import peer
from tests.runtime.programs import convert


def package_of(
    folder: Path, build: Callable[..., Any], specs: list[Any], opset: int, **options: Any
) -> Path:
    """Returns a package of a program for an opset, as `build` makes it: no pass changes it."""
    target = getattr(ct.target, f"iOS{opset}")
    program = mb.program(input_specs=specs, opset_version=target)(build)
    path = folder / "old.mlpackage"
    options = {"pass_pipeline": ct.PassPipeline.EMPTY, **options}
    convert(program, minimum_deployment_target=target, **options).save(str(path))
    return path


def raise_to(source: Path, target: Path, opset: int) -> Path:
    """Returns a package raised to an opset, at `target`."""
    with Package(source) as package:
        raise_package(package, opset)
        with package.rewrite(target):
            pass
    return target


def types_in(package: Path) -> list[str]:
    """Returns the types of the ops of a package, constants apart, as coremltools loads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ops = peer.all_ops(peer.load_programs(package))
    return [op.op_type for op in ops if op.op_type != "const"]


def check(old: Path, inputs: dict[str, Any], opset: int = 18) -> list[str]:
    """Checks that a package raised makes exactly what it made; returns the types of its ops."""
    new = raise_to(old, old.with_name(f"raised{opset}.mlpackage"), opset)
    before, after = Interpreter(old).predict(inputs), Interpreter(new).predict(inputs)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    with Package(new) as package:
        assert {function.opset for function in package.programs[0].functions.values()} == {opset}
    return types_in(new)
