"""Control flow, lists and states."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from programs import program

from mlpass.errors import ExecutionError, InputError
from mlpass.runtime import control
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.kernels.lists import (
    TensorList,
    list_gather,
    list_length,
    list_read,
    list_scatter,
    list_write,
    make_list,
)
from mlpass.runtime.kernels.states import Cell, coreml_update_state, read_state, write_state


def namespaces() -> list[ModuleType]:
    import array_api_strict

    found: list[ModuleType] = [np, array_api_strict]
    try:
        import array_api_compat.torch as torch
    except ModuleNotFoundError:
        return found
    return [*found, torch]


@pytest.fixture(params=namespaces(), ids=lambda xp: xp.__name__)
def xp(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["numpy", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "torch":
        pytest.importorskip("torch")
    return str(request.param)


def run(source: Any, backend: str, **inputs: Any) -> Any:
    """Returns the one output of a program."""
    (made,) = Interpreter(source, backend=backend).predict(inputs).values()
    return made


def double_until(limit: float) -> Any:
    def build(x: Any) -> Any:
        result = mb.while_loop(
            _cond=lambda value: mb.less(x=mb.reduce_sum(x=value), y=limit),
            _body=lambda value: mb.add(x=value, y=value),
            loop_vars=(x,),
        )
        return mb.identity(x=result, name="out")

    return program(build, (1,))


@pytest.mark.parametrize(("start", "end"), [(1.0, 16.0), (3.0, 12.0), (50.0, 50.0)])
def test_while_loop_runs_as_often_as_its_condition_says(
    backend: str, start: float, end: float
) -> None:
    assert run(double_until(10.0), backend, x=[start]).tolist() == [end]


def test_a_loop_without_an_end_is_told(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_ROUNDS", 5)
    assert run(double_until(32.0), backend, x=[1.0]).tolist() == [32.0]
    with pytest.raises(ExecutionError, match="while_loop .*its end after 5 rounds"):
        run(double_until(33.0), backend, x=[1.0])


@pytest.mark.parametrize(("sign", "expected"), [(1, 4.0), (-1, 3.0)])
def test_nested_blocks_read_values_from_outside(backend: str, sign: int, expected: float) -> None:
    def build(x: Any) -> Any:
        outside = mb.abs(x=x)

        def body(value: Any) -> Any:
            return mb.cond(
                pred=mb.squeeze(x=mb.greater(x=x, y=0.0)),
                _true_fn=lambda: mb.mul(x=value, y=2.0),
                _false_fn=lambda: mb.add(x=value, y=outside),
            )

        result = mb.while_loop(
            _cond=lambda value: mb.less(x=mb.reduce_sum(x=value), y=2.5),
            _body=body,
            loop_vars=(outside,),
        )
        return mb.add(x=result, y=0.0)

    assert run(program(build, (1,)), backend, x=[1.0 * sign]).tolist() == [expected]


def test_value_of_a_branch_not_taken() -> None:
    def build(x: Any) -> Any:
        return mb.cond(
            pred=mb.squeeze(x=mb.greater(x=x, y=0.0)),
            _true_fn=lambda: mb.exp(x=x, name="inner"),
            _false_fn=lambda: mb.abs(x=x, name="other"),
            name="out",
        )

    interpreter = Interpreter(program(build, (1,)))
    made = interpreter.run({"x": [1.0]}, ["inner"])["inner"]
    np.testing.assert_allclose(made, np.exp([1.0]), rtol=1e-6)
    with pytest.raises(
        InputError, match="outputs: the run did not compute 'inner', made in a branch"
    ):
        interpreter.run({"x": [-1.0]}, ["inner"])


def test_loop_frees_what_its_rounds_make() -> None:
    import weakref

    alive: list[int] = []
    results: list[weakref.ref[Any]] = []

    class Watch:
        def before(self, op: Any, inputs: Any) -> None:
            alive.append(sum(result() is not None for result in results))

        def after(self, op: Any, outputs: tuple[Any, ...]) -> None:
            results.extend(weakref.ref(made) for made in outputs if isinstance(made, np.ndarray))

    interpreter = Interpreter(double_until(1e6))
    interpreter.listeners.append(Watch())
    interpreter.predict({"x": [1.0]})
    assert len(alive) > 60
    assert max(alive) <= 3


def test_state_is_read_again_after_it_was_written(backend: str) -> None:
    @mb.program(
        input_specs=[mb.TensorSpec((1,)), mb.StateTensorSpec((1,))],
        opset_version=ct.target.iOS18,
    )
    def source(x: Any, total: Any) -> Any:
        added = mb.add(x=mb.read_state(input=total), y=x)
        mb.coreml_update_state(state=total, value=added)
        return mb.mul(x=mb.read_state(input=total), y=2.0, name="out")

    interpreter = Interpreter(source, backend=backend)
    state = interpreter.make_state()
    made = [interpreter.predict({"x": [1.0]}, state)["out"].item() for _ in range(3)]
    assert made == [2.0, 4.0, 6.0]


def listed(array: Any) -> Any:
    return np.asarray(array).tolist()


def test_lists(xp: Any) -> None:
    row = xp.asarray([1.0, 2.0])
    empty = make_list(xp, elem_shape=(2,), init_length=2, dynamic_length=False)
    one = list_write(xp, ls=empty, index=1, value=row)
    assert listed(list_read(xp, ls=one, index=1)) == [1.0, 2.0]
    assert listed(list_read(xp, ls=one, index=np.asarray(0))) == [0.0, 0.0]
    assert listed(list_read(xp, ls=empty, index=1)) == [0.0, 0.0], "lists are never changed"
    assert int(list_length(xp, ls=one)) == 2
    assert list_length(xp, ls=one).dtype == xp.int32
    both = xp.asarray([[3.0, 4.0], [5.0, 6.0]])
    two = list_scatter(xp, ls=one, indices=[1, 0], value=both)
    gathered = list_gather(xp, ls=two, indices=np.asarray([0, 1, 0]))
    assert listed(gathered) == [[5.0, 6.0], [3.0, 4.0], [5.0, 6.0]]
    with pytest.raises(ValueError, match="index 2 is not in a list of length 2"):
        list_write(xp, ls=two, index=2, value=row)
    with pytest.raises(ValueError, match="index 2 is not in a list of length 2"):
        list_read(xp, ls=two, index=2)


def test_list_that_grows_and_does_not_know_its_elements(xp: Any) -> None:
    ls = make_list(xp, elem_shape=("unknown",), init_length=1, dynamic_length=True)
    with pytest.raises(ValueError, match="the list's element shape is unknown, and nothing was"):
        list_read(xp, ls=ls, index=0)
    ls = list_write(xp, ls=ls, index=3, value=xp.asarray([1, 2, 3]))
    assert int(list_length(xp, ls=ls)) == 4
    assert listed(list_read(xp, ls=ls, index=0)) == [0, 0, 0]
    assert isinstance(ls, TensorList)


def test_states(xp: Any) -> None:
    first, second = xp.asarray([1.0]), xp.asarray([2.0])
    cell = Cell(first)
    before = read_state(xp, input=cell)
    assert write_state(xp, input=cell, data=second) == ()
    assert before is first
    assert read_state(xp, input=cell) is second
    assert coreml_update_state(xp, state=cell, value=first) is first
    assert read_state(xp, input=cell) is first
