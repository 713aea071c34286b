"""A small decoder with a state in each of its layers: whole, and as three packages in a row.

The states of the packages have the same name and different shapes, as a converter leaves them that
is given one part at a time.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from tests.runtime.programs import convert

WIDTHS = (48, 64, 56, 48)  # of what goes in, between, and out
_RANDOM = np.random.default_rng(5)
_WEIGHTS = [
    [_RANDOM.standard_normal(shape).astype(np.float32) / 8 for shape in ((out, into), (out, out))]
    for into, out in pairwise(WIDTHS)
]


def _layer(x, state, number, rows=None):
    """One layer: what came before, faded, and what comes now; of so many rows, the last stays."""
    first, second = _WEIGHTS[number]
    x = _cast(x, "fp32")
    x = mb.linear(x=x, weight=first, name=f"first_{number}")
    held = mb.cast(x=mb.read_state(input=state), dtype="fp32")
    seen = mb.tanh(x=mb.add(x=x, y=held))
    kept = seen if rows is None else mb.slice_by_size(x=seen, begin=[rows - 1, 0], size=[1, -1])
    mb.coreml_update_state(state=state, value=mb.cast(x=kept, dtype="fp16"))
    return mb.linear(x=seen, weight=second, name=f"second_{number}")


def _cast(x, dtype):
    return x if types.builtin_to_string(x.dtype) == dtype else mb.cast(x=x, dtype=dtype)


def _state(number, rows=2):
    return mb.StateTensorSpec((rows, WIDTHS[number + 1]), dtype=types.fp16)


def _input(number, dtype="fp32"):
    return mb.TensorSpec((2, WIDTHS[number]), dtype=types.string_to_builtin(dtype))


def whole(path: Path) -> Path:
    """Writes the model as one package."""

    @mb.program(
        input_specs=[_input(0), _state(0), _state(1), _state(2)], opset_version=ct.target.iOS18
    )
    def model(x0, a, b, c):
        x = x0
        for number, state in enumerate((a, b, c)):
            x = _layer(x, state, number)
        return mb.identity(x=x, name="x3")

    return _saved(model, path)


def chunk(
    path: Path, number: int, *, takes: str = "", makes: str = "", handed: str = "fp32"
) -> Path:
    """Writes one of its three layers, which takes x0, x1 or x2 and makes the one after that."""
    name, made = takes or f"x{number}", makes or f"x{number + 1}"

    taken = _input(number, handed if number else "fp32")

    @mb.program(input_specs=[taken, _state(number)], opset_version=ct.target.iOS18)
    def model(x, memory):
        return mb.identity(x=_cast(_layer(x, memory, number), handed), name=made)

    return _saved(model, path, {"x": name})


def chunks(folder: Path, handed: str = "fp32") -> list[Path]:
    """Writes all three, which hand on fp32 or fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        chunk(folder / f"{name}.mlpackage", number, handed=handed)
        for number, name in enumerate("abc")
    ]


ROWS = {"prefill": 3, "decode": 1}


def with_functions(folder: Path) -> tuple[Path, list[Path]]:
    """Writes a model of two functions, which take three rows and one: whole, and three in a row.

    The functions share weights, and a state in each layer, of the last row that was seen.
    """
    three = [
        _joined(folder / name, {of: _one_layer(number, rows) for of, rows in ROWS.items()}, number)
        for number, name in enumerate("abc")
    ]
    return _joined(folder / "all", {of: _all_layers(rows) for of, rows in ROWS.items()}), three


def _one_layer(number, rows):
    taken = mb.TensorSpec((rows, WIDTHS[number]))

    @mb.program(input_specs=[taken, _state(number, 1)], opset_version=ct.target.iOS18)
    def model(x, memory):
        return mb.identity(x=_layer(x, memory, number, rows), name=f"x{number + 1}")

    return model


def _all_layers(rows):
    specs = [mb.TensorSpec((rows, WIDTHS[0])), *(_state(number, 1) for number in range(3))]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def model(x, a, b, c):
        for number, state in enumerate((a, b, c)):
            x = _layer(x, state, number, rows)
        return mb.identity(x=x, name="x3")

    return model


def _joined(folder: Path, functions, number: int = 0) -> Path:
    """Writes programs as the functions of one package."""
    folder.mkdir(parents=True)
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, source in functions.items():
        path = _saved(source, folder / f"{name}_alone.mlpackage", {"x": f"x{number}"})
        descriptor.add_function(str(path), "main", name)
    descriptor.default_function_name = next(iter(functions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.utils.save_multifunction(descriptor, str(folder / f"{folder.name}.mlpackage"))
    return folder / f"{folder.name}.mlpackage"


def _saved(program, path, names=None):
    model = convert(program, minimum_deployment_target=ct.target.iOS18)
    spec = model.get_spec()
    for old, new in (names or {}).items():
        ct.utils.rename_feature(spec, old, new)
    ct.utils.save_spec(spec, str(path), weights_dir=model.weights_dir)
    return path


def talks(*lengths: int) -> list[list[dict[str, np.ndarray]]]:
    """Returns sequences of so many steps."""
    draw = np.random.default_rng(6)
    return [
        [{"x0": draw.standard_normal((2, WIDTHS[0])).astype(np.float32)} for _ in range(length)]
        for length in lengths
    ]


def turns(count: int, decoded: int = 3) -> list[list[tuple[str, dict[str, np.ndarray]]]]:
    """Returns sequences of a prefill and so many steps of decoding."""
    draw = np.random.default_rng(7)

    def rows(of):
        return {"x0": draw.standard_normal((ROWS[of], WIDTHS[0])).astype(np.float32)}

    return [[(of, rows(of)) for of in ("prefill", *["decode"] * decoded)] for _ in range(count)]
