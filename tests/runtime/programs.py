"""Small programs, made with coremltools' builder, and packages of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb

FIXTURES = Path(__file__).parents[2] / "fixtures"
TINY = FIXTURES / "tiny_lm.mlpackage"


def program(
    build: Callable[..., Any], *shapes: tuple[Any, ...], opset: Any = ct.target.iOS17
) -> Any:
    """Returns the pymil program of `build`, whose inputs have those shapes."""
    specs = [mb.TensorSpec(shape) for shape in shapes]
    return mb.program(input_specs=specs, opset_version=opset)(build)


def convert(source: Any, **options: Any) -> Any:
    """Returns a program converted to an `MLModel`, fp32 unless told."""
    settings = {
        "source": "milinternal",
        "convert_to": "mlprogram",
        "compute_precision": ct.precision.FLOAT32,
        "minimum_deployment_target": ct.target.iOS17,
        "skip_model_load": True,
        **options,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coremltools leaves a directory behind
        return ct.convert(source, **settings)


def truth(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a fixture's example inputs, and what its source framework computes."""
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        inputs = {key[6:]: arrays[key] for key in arrays.files if key.startswith("input:")}
        outputs = {key[7:]: arrays[key] for key in arrays.files if key.startswith("output:")}
    return inputs, outputs


def chain(x: Any) -> Any:
    """x -> relu -> exp -> add with itself."""
    x = mb.relu(x=x, name="first")
    x = mb.exp(x=x, name="second")
    return mb.add(x=x, y=x, name="third")
