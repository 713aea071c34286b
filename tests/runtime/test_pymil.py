"""A live pymil program runs as the package that it comes from does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.frontend.milproto.load import load
from programs import FIXTURES

from mlpass.program.mlpackage import Package
from mlpass.program.pymil import read_program
from mlpass.runtime.interpreter import Interpreter

NAMES = [
    "basic_pitch",
    "branches",
    "digits_classifier",
    "multifunction_lm",
    "palettized_digits",
    "quantized_digits",
    "silero_vad",
    "stateful_lm",
]


def pymil_program(path: Path) -> Any:
    """Returns the program of a package as coremltools loads it."""
    with Package(path) as package:
        weights = package.model_path.parent / "weights"
        return load(package.spec, package.spec.specificationVersion, str(weights))


def example(interpreter: Interpreter) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        feature.name: generator.integers(0, 9, feature.shape)
        if feature.dtype.startswith("int")
        else generator.random(feature.shape)
        for feature in interpreter.inputs
    }


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("name", NAMES)
def test_runs_as_its_package(name: str) -> None:
    path = FIXTURES / f"{name}.mlpackage"
    program = pymil_program(path)
    packed = Interpreter(path)
    function = packed.parts[0].plan.function.name
    live = Interpreter(program, function_name=function)
    assert {one.name for one in live.inputs} == {one.name for one in packed.inputs}
    inputs = example(live)
    both = []
    for interpreter in (packed, live):
        state = interpreter.make_state() if interpreter.states else None
        both.append(interpreter.predict(inputs, state))
    for key, expected in both[0].items():
        if isinstance(expected, np.ndarray):
            np.testing.assert_allclose(both[1][key], expected, rtol=1e-6, atol=1e-6)
        else:
            assert both[1][key] == expected


@pytest.mark.parametrize("name", NAMES)
def test_reads_the_same_graph(name: str) -> None:
    path = FIXTURES / f"{name}.mlpackage"
    graph = read_program(pymil_program(path))
    with Package(path) as package:
        stored = package.programs[0]
    assert set(graph.functions) == set(stored.functions)
    for key, function in graph.functions.items():
        theirs = stored.functions[key]
        assert function.opset == theirs.opset

        def listed(one: Any) -> list[Any]:
            skipped = ("const", "write_state", "read_state", "coreml_update_state")
            return [
                (op.type, [(value.name, value.type) for value in op.outputs], sorted(op.inputs))
                for op in one.block.walk()
                if op.type not in skipped
            ]

        ours, others = listed(function), listed(theirs)
        assert [one[0] for one in ours] == [one[0] for one in others]
        assert [one[1] for one in ours] == [one[1] for one in others]
