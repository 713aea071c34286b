"""Runs, op by op: intermediates, listeners, memory, gradients and states."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from programs import TINY, chain, program, truth

from mlpass.errors import InputError
from mlpass.program import ir
from mlpass.program.dtypes import BY_NAME
from mlpass.runtime.execute import execute
from mlpass.runtime.interpreter import Interpreter


def test_run_gives_any_value_in_its_declared_type() -> None:
    inputs, _ = truth("tiny_lm")
    interpreter = Interpreter(TINY)
    names = [
        value.name for step in interpreter.parts[0].plan.block.steps for value in step.op.outputs
    ]
    made = interpreter.run(inputs, [*names[:3], "logits"])
    assert list(made) == [*names[:3], "logits"]
    full = interpreter.predict(inputs)["logits"]
    np.testing.assert_array_equal(made["logits"], full)
    declared = interpreter.parts[0].plan.names[names[2]].type
    assert isinstance(declared, ir.TensorType)
    assert made[names[2]].dtype == BY_NAME[declared.dtype].numpy
    with pytest.raises(
        InputError, match="outputs: there is no value 'logit', did you mean 'logits'"
    ):
        interpreter.run(inputs, ["logit"])


class Recorder:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def before(self, op: ir.Op, inputs: Mapping[str, Any]) -> None:
        self.seen.append(f"before {op.name}: {', '.join(inputs)}")

    def after(self, op: ir.Op, outputs: tuple[Any, ...]) -> None:
        self.seen.append(f"after {op.name}: {outputs[0].shape}")


def test_listeners_see_every_op_in_order() -> None:
    interpreter, recorder = Interpreter(program(chain, (2,))), Recorder()
    interpreter.listeners.append(recorder)
    interpreter.predict({"x": [0, 0]})
    assert recorder.seen == [
        "before first: x",
        "after first: (2,)",
        "before second: x",
        "after second: (2,)",
        "before third: x, y",
        "after third: (2,)",
    ]


def test_run_stops_when_it_has_what_was_asked_for() -> None:
    interpreter, recorder = Interpreter(program(chain, (2,))), Recorder()
    interpreter.listeners.append(recorder)
    interpreter.run({"x": [0, 0]}, ["first"])
    assert recorder.seen == ["before first: x", "after first: (2,)"]


class Watch:
    """Holds weak references to results, and counts how many live when the next op starts."""

    def __init__(self) -> None:
        self.alive: list[int] = []
        self._results: list[weakref.ref[Any]] = []

    def before(self, op: ir.Op, inputs: Mapping[str, Any]) -> None:
        self.alive.append(sum(result() is not None for result in self._results))

    def after(self, op: ir.Op, outputs: tuple[Any, ...]) -> None:
        self._results += [weakref.ref(output) for output in outputs]


def test_values_are_freed_at_last_use() -> None:
    def deep(x: Any) -> Any:
        for _ in range(6):
            x = mb.exp(x=x)
        return mb.identity(x=x, name="out")

    interpreter, watch = Interpreter(program(deep, (2,))), Watch()
    interpreter.listeners.append(watch)
    interpreter.predict({"x": [0, 0]})
    assert watch.alive == [0, 1, 1, 1, 1, 1, 1]


def test_values_that_nothing_reads_are_freed_at_once() -> None:
    def wasteful(x: Any) -> Any:
        low, _ = mb.split(x=x, num_splits=2, axis=0)
        return mb.exp(x=mb.exp(x=low), name="out")

    interpreter, watch = Interpreter(program(wasteful, (2,))), Watch()
    interpreter.listeners.append(watch)
    interpreter.predict({"x": [0, 0]})
    assert watch.alive == [0, 1, 1]


def test_weights_are_read_when_used_and_shared_by_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    reading = ir.Constant.read

    def noting(self: ir.Constant) -> Any:
        if self.in_file:
            read.append(self.storage)
        return reading(self)

    monkeypatch.setattr(ir.Constant, "read", noting)
    interpreter = Interpreter(TINY)
    constants = interpreter.parts[0].constants
    assert not read
    inputs, _ = truth("tiny_lm")
    interpreter.predict(inputs)
    assert read
    assert len(read) == len(set(read))
    gathers = [step for step in interpreter.parts[0].plan.block.steps if step.op.type == "gather"]
    linears = [step for step in interpreter.parts[0].plan.block.steps if step.op.type == "linear"]
    embedding = constants[dict(gathers[0].arguments)["x"]]  # type: ignore[index]
    assert embedding.dtype == np.float32
    assert any(constants[dict(step.arguments)["weight"]] is embedding for step in linears)  # type: ignore[index]


def test_constants_can_be_replaced_and_forgotten() -> None:
    source = program(lambda x: mb.mul(x=x, y=np.float32([2, 3]), name="out"), (2,))
    interpreter = Interpreter(source)
    ((_, weight),) = (
        item for item in interpreter.parts[0].plan.block.steps[0].arguments if item[0] == "y"
    )
    constants = interpreter.parts[0].constants
    constants.replace(weight, np.float32([5, 7]))  # type: ignore[arg-type]
    assert interpreter.predict({"x": [1, 1]})["out"].tolist() == [5, 7]
    constants.forget(weight)  # type: ignore[arg-type]
    assert interpreter.predict({"x": [1, 1]})["out"].tolist() == [2, 3]


def test_forgotten_weights_are_let_go() -> None:
    inputs, _ = truth("tiny_lm")
    interpreter = Interpreter(TINY)
    interpreter.predict(inputs)
    constants, makers = interpreter.parts[0].constants, interpreter.parts[0].plan.makers
    arrays = [weakref.ref(one) for one in map(constants.__getitem__, makers) if np.size(one) > 64]
    assert len(arrays) > 5
    assert all(array() is not None for array in arrays)
    for source in makers:
        constants.forget(source)
    assert not any(array() is not None for array in arrays)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_data_come_as_arrays_and_the_rest_as_python_values(backend: str) -> None:
    array = pytest.importorskip("torch").Tensor if backend == "torch" else np.ndarray
    seen: dict[str, dict[str, Any]] = {}

    class Look:
        def before(self, op: ir.Op, inputs: Mapping[str, Any]) -> None:
            seen[op.type] = dict(inputs)

        def after(self, op: ir.Op, outputs: tuple[Any, ...]) -> None: ...

    def build(x: Any) -> Any:
        shifted = mb.add(x=mb.rsqrt(x=x, epsilon=np.float32(0.5)), y=np.float32(2))
        return mb.reduce_sum(x=shifted, axes=[0, 1], keep_dims=True, name="out")

    interpreter = Interpreter(program(build, (2, 2)), backend=backend)
    interpreter.listeners.append(Look())
    for _ in range(2):
        interpreter.predict({"x": np.ones((2, 2))})
        assert seen["reduce_sum"]["axes"] == (0, 1)
        assert seen["reduce_sum"]["keep_dims"] is True
        assert type(seen["rsqrt"]["epsilon"]) is float
        assert type(seen["add"]["y"]) is array  # data, though of one number
        assert type(seen["rsqrt"]["x"]) is array


def test_gradients_flow_through_a_torch_run() -> None:
    torch = pytest.importorskip("torch")
    interpreter = Interpreter(program(chain, (2,)), backend="torch")
    (part,), backend = interpreter.parts, interpreter.backend
    x = torch.tensor([0.5, 1.0], requires_grad=True)
    (value,) = part.plan.block.inputs
    assert backend is not None
    with backend.session(True):
        made = execute(part.plan, part.constants, backend, {value: x})
    made[part.plan.block.outputs[0]].sum().backward()
    np.testing.assert_allclose(x.grad, 2 * np.exp([0.5, 1.0]), rtol=1e-6)


# States


def counter() -> Any:
    @mb.program(
        input_specs=[mb.TensorSpec((2,)), mb.StateTensorSpec((2,))],
        opset_version=ct.target.iOS18,
    )
    def source(x: Any, total: Any) -> Any:
        added = mb.add(x=mb.read_state(input=total), y=x)
        return mb.coreml_update_state(state=total, value=added, name="out")

    return source


def test_state_from_a_pymil_program() -> None:
    interpreter = Interpreter(counter())
    state = interpreter.make_state()
    interpreter.predict({"x": [1, 2]}, state)
    assert interpreter.predict({"x": [1, 2]}, state)["out"].tolist() == [2, 4]
    assert state.read_state("total").tolist() == [2, 4]
    state.write_state("total", [10, 10])
    assert interpreter.predict({"x": [1, 2]}, state)["out"].tolist() == [11, 12]


def test_state_errors() -> None:
    interpreter = Interpreter(counter())
    with pytest.raises(
        InputError, match=r"state: this model keeps one; pass state=interpreter.make_"
    ):
        interpreter.predict({"x": [1, 2]})
    with pytest.raises(
        InputError, match="must be from this model's make_state, with 'total'. Got 3."
    ):
        interpreter.predict({"x": [1, 2]}, 3)  # type: ignore[call-overload]
    state = interpreter.make_state()
    with pytest.raises(
        InputError, match="there is no state 'totl', did you mean 'total'[?] The states"
    ):
        state.read_state("totl")
    with pytest.raises(InputError, match=r"^state 'total': must be of shape \(2,\). Got \(3,\)"):
        state.write_state("total", [1, 2, 3])
    with pytest.raises(InputError, match="does not go with a list of inputs; call predict"):
        interpreter.predict([{"x": [1, 2]}], state)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="make_state: this model keeps no state"):
        Interpreter(program(chain, (2,))).make_state()
    assert repr(state) == "State(total: fp32 (2,))"
