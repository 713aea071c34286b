"""A pytest plugin: coremltools' own op tests, with the Interpreter in the place of Core ML.

Off macOS coremltools' tests convert a program and stop before they compare. This plugin lets them
believe they are on macOS, runs every prediction with mlpass, and compares as strictly as mlpass
wants: at coremltools' own fp32 tolerances for fp32, at 1e-2 relative and 1e-2 of the output's scale
for fp16. Every op's results are checked against the types that the program declares, too.

Environment:
    MLPASS_CONFORMANCE_BACKENDS: "numpy", "torch", or both ("numpy,torch", the default).
    MLPASS_CONFORMANCE_EVERY: a number n, to run only one test of n, evenly spread; 1 unless told.
    MLPASS_CONFORMANCE_LOG: a file to append what each test compared to, one JSON line a test.
    MLPASS_CONFORMANCE_RESUME: such a file, of a run that was cut short: its tests are left out.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
import warnings
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from comparing import FP16_TOLERANCE, DeclaredTypes, assert_close
from coremltools.converters.mil import testing_utils
from coremltools.models import model as ct_model
from coremltools.models import utils as ct_utils
from exceptions import EXCEPTIONS
from raising import check_raised, raised

from mlpass.errors import ExecutionError
from mlpass.program.ir import TensorType
from mlpass.runtime.interpreter import Interpreter

MACOS_VERSION = (15, 5)
CORE_ML_FAILED = "Error computing NN outputs"  # tests of what must fail look for these words
BACKENDS = os.environ.get("MLPASS_CONFORMANCE_BACKENDS", "numpy,torch").split(",")
EVERY = int(os.environ.get("MLPASS_CONFORMANCE_EVERY", "1"))
RESUME = os.environ.get("MLPASS_CONFORMANCE_RESUME")
LOG = os.environ.get("MLPASS_CONFORMANCE_LOG")

compared = 0  # in this test
seen_ops: set[str] = set()


class States:
    """One state for each backend, in the place of coremltools' MLState."""

    def __init__(self, model: Any) -> None:
        self.each = [interpreter.make_state() for interpreter in _interpreters(model)]

    def read_state(self, name: str) -> Any:
        first, *others = (state.read_state(name) for state in self.each)
        for other in others:
            np.testing.assert_allclose(other, first, rtol=FP16_TOLERANCE, atol=FP16_TOLERANCE)
        return first

    def write_state(self, name: str, value: Any) -> None:
        for state in self.each:
            state.write_state(name, value)


def _interpreters(model: Any) -> list[Interpreter]:
    # Two tests predict with an old neural network, too: its program is what can be run of it.
    source = model if model.is_package else model._mil_program
    made = [Interpreter(source, backend=backend) for backend in BACKENDS]
    for interpreter in made:
        interpreter.listeners.append(DeclaredTypes(seen_ops))
        for part in interpreter.parts:
            seen_ops.update(op.type for op in part.plan.makers.values())
    return made


def predict_each(model: Any, data: Any, state: States | None = None) -> list[Any]:
    """Returns the prediction of every backend."""
    states = state.each if state is not None else [None] * len(BACKENDS)
    try:
        return [
            interpreter.predict(data, one)
            for interpreter, one in zip(_interpreters(model), states, strict=True)
        ]
    except ExecutionError as error:
        if isinstance(error.__cause__, AssertionError):  # of DeclaredTypes, within a loop's body
            raise
        raise RuntimeError(f"{CORE_ML_FAILED}: {error}") from error


def computes_in_fp16(model: Any) -> bool:
    """Returns whether any op of a model's program gives fp16."""
    if not model.is_package:
        return False
    (part,) = Interpreter(model).parts
    return any(
        isinstance(value.type, TensorType) and value.type.dtype == "fp16"
        for value in part.plan.names.values()
    )


def predict(self: Any, data: Any, state: States | None = None) -> Any:
    """Stands in for `MLModel.predict`: the first backend's answer, once the others agree."""
    global compared
    compared += 1
    check_raised(self, data)
    first, *others = predict_each(self, data, state)
    if not any(op.startswith("random_") for op in seen_ops):
        for other in others:
            for name in first if isinstance(first, dict) else ():
                if isinstance(first[name], np.ndarray):
                    assert_close(other[name], first[name], 1e-4, 1e-3, "fp32", name)
    return first


def compare_backend(
    mlmodel: Any,
    input_key_values: Any,
    expected_outputs: Any,
    dtype: str = "fp32",
    atol: float = 1e-04,
    rtol: float = 1e-05,
    also_compare_shapes: bool = True,
    state: States | None = None,
    allow_mismatch_ratio: float = 0.0,
) -> Any:
    """Stands in for coremltools' function of that name: every backend is held to the truth."""
    global compared
    compared += 1
    for name, value in input_key_values.items():
        if hasattr(value, "mode"):
            continue
        array = np.asarray(value, np.float32)
        input_key_values[name] = array.reshape(1) if array.shape == () else array
    check_raised(mlmodel, input_key_values)
    answers = predict_each(mlmodel, input_key_values, state)
    if computes_in_fp16(mlmodel):
        dtype = "fp16"  # coremltools converts to fp32, but the test's own program is in fp16
    for answer in answers:
        if also_compare_shapes:
            testing_utils.compare_shapes(mlmodel, input_key_values, expected_outputs, pred=answer)
        for name, expected in (expected_outputs or {}).items():
            got = testing_utils._get_coreml_out_from_dict(answer, name)
            if isinstance(got, np.ndarray):
                assert_close(got, expected, atol, rtol, dtype, name, allow_mismatch_ratio)
            elif isinstance(got, dict):
                assert got == expected
            else:
                assert got == expected
    return answers[0]


def redirect() -> None:
    """Puts the above in the place of coremltools' own."""
    testing_utils._IS_MACOS = True
    testing_utils.compare_backend = compare_backend
    ct_utils._is_macos = lambda: True
    ct_utils._macos_version = lambda: MACOS_VERSION
    ct_model._is_macos = ct_utils._is_macos
    ct_model._macos_version = ct_utils._macos_version
    ct_model.MLModel.predict = predict
    ct_model.MLModel.make_state = lambda self: States(self)


redirect()


def pytest_configure(config: pytest.Config) -> None:
    warnings.filterwarnings("ignore")
    if "torch" in BACKENDS:
        import torch

        torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the old neural-network cases, and the listed exceptions."""
    kept, left_out = [], []
    for item in items:
        (left_out if _is_neural_network(item) or _exception(item) else kept).append(item)
    done = _tests_of(RESUME) if RESUME else set()
    left_out += [item for item in kept if item.nodeid in done]
    kept = [item for item in kept if item.nodeid not in done]
    left_out += [item for number, item in enumerate(kept) if number % EVERY]
    items[:] = kept[::EVERY]
    config.hook.pytest_deselected(items=left_out)


def _tests_of(log: str) -> set[str]:
    with open(log, encoding="utf-8") as file:
        return {json.loads(line)["test"] for line in file}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spares the collector what is there by now: coremltools collects after every conversion."""
    gc.collect()
    gc.freeze()


def _is_neural_network(item: pytest.Item) -> bool:
    backend = getattr(item, "callspec", None) and item.callspec.params.get("backend")
    return getattr(backend, "backend", backend[0] if isinstance(backend, tuple) else "") == (
        "neuralnetwork"
    )


def _exception(item: pytest.Item) -> bool:
    return any(re.search(pattern, item.nodeid) for pattern in EXCEPTIONS)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    global compared
    compared = 0
    seen_ops.clear()
    raised.clear()
    # They draw their inputs: by the test's own name, a run shows again what an earlier one showed.
    seed = crc32(item.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what they draw from)
    outcome = yield
    item.user_properties.append(("compared", compared))
    if LOG:
        record = {
            "test": item.nodeid,
            "compared": compared,
            "raised": list(raised),
            "ops": sorted(seen_ops),
            "failed": outcome.excinfo is not None,
            "error": str(outcome.excinfo[1])[:400] if outcome.excinfo else None,
            "kind": outcome.excinfo[0].__name__ if outcome.excinfo else None,
        }
        with open(LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
