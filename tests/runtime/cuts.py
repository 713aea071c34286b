"""A residual decoder whose ops can be divided among packages in a row, anywhere.

Its branches come back to their stream at once, past a bias, and past a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types

from tests.runtime.programs import convert

SIZE = 48
SHAPE = (2, SIZE)
_RANDOM = np.random.default_rng(8)
_BIAS = _RANDOM.standard_normal(SIZE).astype(np.float32)


class _Op(NamedTuple):
    """What is made of values by name; a state goes with those that keep one."""

    makes: str
    takes: tuple[str, ...]
    build: Any
    keeps: bool = False


def _linear(makes: str, takes: str) -> _Op:
    weight = _RANDOM.standard_normal((SIZE, SIZE)).astype(np.float32) / 7
    return _Op(makes, (takes,), lambda x: mb.linear(x=x, weight=weight, name=f"{makes}_made"))


def _remembered(x: Any, state: Any) -> Any:
    seen = mb.add(x=x, y=mb.cast(x=mb.read_state(input=state), dtype="fp32"))
    mb.coreml_update_state(state=state, value=mb.cast(x=mb.tanh(x=seen), dtype="fp16"))
    return mb.relu(x=seen)


def _added(makes: str, takes: str, *others: str) -> _Op:
    name = f"{makes}_made"
    return _Op(makes, (takes, *others), lambda x, y=_BIAS: mb.add(x=x, y=y, name=name))


OPS = (
    _linear("stream", "x"),
    _Op("active", ("stream",), lambda x: mb.tanh(x=x)),
    _linear("first", "active"),
    _added("biased", "first"),
    _added("longer", "biased", "stream"),
    _Op("remembered", ("longer",), _remembered, keeps=True),
    _linear("gate", "remembered"),
    _linear("up", "remembered"),
    _Op("gated", ("gate", "up"), lambda x, y: mb.mul(x=mb.sigmoid(x=x), y=y)),
    _linear("down", "gated"),
    _added("longest", "longer", "down"),
    _linear("y", "longest"),
)


def save(path: Path, ops: Sequence[_Op], handed: str = "fp32") -> Path:
    """Writes some neighbouring ops as a package, which takes and makes what it has to."""
    made, taken = [op.makes for op in ops], [name for op in ops for name in op.takes]
    after = [name for op in OPS[OPS.index(ops[-1]) + 1 :] for name in op.takes]
    takes = [name for name in dict.fromkeys(taken) if name not in made]
    gives = [name for name in dict.fromkeys(after) if name in made] or made[-1:]
    given = {
        name: mb.placeholder(shape=SHAPE, dtype=_type("fp32" if name == "x" else handed), name=name)
        for name in takes
    }
    if any(op.keeps for op in ops):
        given["memory"] = mb.state_tensor_placeholder(shape=SHAPE, dtype=types.fp16)
    program = Program()
    with Function(given, opset_version=ct.target.iOS18) as function:
        values = {name: _cast(function.inputs[name], "fp32") for name in takes}
        for op in ops:
            state = [function.inputs["memory"]] if op.keeps else []
            values[op.makes] = op.build(*(values[name] for name in op.takes), *state)
        function.set_outputs([_cast(values[name], handed, name) for name in gives])
    program.add_function("main", function)
    model = convert(
        program,
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=ct.PassPipeline.EMPTY,
    )
    model.save(str(path))
    return path


def cut(folder: Path, *places: int, handed: str = "fp32") -> list[Path]:
    """Writes the model as packages in a row, cut before the ops at these places."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        save(folder / f"{number}.mlpackage", OPS[start:stop], handed)
        for number, (start, stop) in enumerate(pairwise((0, *places, len(OPS))))
    ]


def _cast(x: Any, dtype: str, name: str | None = None) -> Any:
    same = types.builtin_to_string(x.dtype) == dtype
    if same and name is None:
        return x
    named = {} if name is None else {"name": name}
    return mb.identity(x=x, **named) if same else mb.cast(x=x, dtype=dtype, **named)


def _type(dtype: str) -> Any:
    return types.string_to_builtin(dtype)


def talks(*lengths: int) -> list[list[dict[str, Any]]]:
    """Returns sequences of so many steps."""
    draw = np.random.default_rng(3)
    return [
        [{"x": draw.standard_normal(SHAPE).astype(np.float32)} for _ in range(length)]
        for length in lengths
    ]
