"""Small packages of several functions over one set of weights, made with coremltools alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from tests.runtime.programs import convert

WIDTH, LAYERS, ROOM, IDS, PREFILL = 64, 2, 32, 96, 8
NAMES = ("q", "k", "v", "out", "up", "down")
SHAPES = {"up": (2 * WIDTH, WIDTH), "down": (WIDTH, 2 * WIDTH)}
RANK = 8


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {
        f"{name}_{layer}": SHAPES.get(name, (WIDTH, WIDTH))
        for layer in range(LAYERS)
        for name in NAMES
    }
    shapes |= {"table": (IDS, WIDTH), "head": (IDS, WIDTH)}
    scale = {"table": 1.0, "head": 0.2}
    return {
        name: (rng.standard_normal(shape) * scale.get(name, 0.15)).astype(np.float16)
        for name, shape in shapes.items()
    }


WEIGHTS = _weights()


def lm(positions: int, *, one_state: bool = False):
    """A language model of two layers that takes some tokens at once, with its cache in states.

    The states are a layer's own, or one for the keys and the values of all of them.
    """
    shape = (2 * LAYERS * ROOM, WIDTH) if one_state else (ROOM, WIDTH)
    count = 1 if one_state else 2 * LAYERS
    specs = [
        mb.TensorSpec((1, positions), dtype=types.int32),
        mb.TensorSpec((1,), dtype=types.int32),
        *(mb.StateTensorSpec(shape, dtype=types.fp16) for _ in range(count)),
    ]

    def kept(states, held, number, position, update):
        """Writes rows of a cache, and returns all of it."""
        place = 0 if one_state else number
        first = number * ROOM if one_state else 0
        begin = mb.concat(values=[mb.add(x=position, y=np.array([first], np.int32)), [0]], axis=0)
        end = mb.concat(
            values=[mb.add(x=position, y=np.array([first + positions], np.int32)), [WIDTH]], axis=0
        )
        # Read once and carried on: coremltools takes two reads of a state for one.
        written = mb.slice_update(x=held[place], update=update, begin=begin, end=end)
        held[place] = mb.coreml_update_state(state=states[place], value=written)
        return mb.slice_by_index(x=held[place], begin=[first, 0], end=[first + ROOM, WIDTH])

    def linear(x, name):
        return mb.linear(x=x, weight=WEIGHTS[name], name=f"{name}_made")

    def body(tokens, position, states):
        x = mb.gather(x=WEIGHTS["table"], indices=tokens, axis=0, name="embedded")
        x = mb.squeeze(x=x, axes=[0])
        places = mb.add(x=np.arange(positions, dtype=np.int32)[:, None], y=position)
        seen = mb.less_equal(x=np.arange(ROOM, dtype=np.int32)[None], y=places)
        ban = mb.select(cond=seen, a=np.float16(0), b=np.float16(-1e4))
        held = [mb.read_state(input=state) for state in states]
        for layer in range(LAYERS):
            q, k, v = (linear(x, f"{name}_{layer}") for name in ("q", "k", "v"))
            keys, values = (
                kept(states, held, 2 * layer + number, position, update)
                for number, update in enumerate((k, v))
            )
            scores = mb.mul(x=mb.matmul(x=q, y=keys, transpose_y=True), y=np.float16(WIDTH**-0.5))
            mixed = mb.matmul(x=mb.softmax(x=mb.add(x=scores, y=ban), axis=-1), y=values)
            x = mb.add(x=x, y=linear(mixed, f"out_{layer}"))
            inner = mb.relu(x=linear(x, f"up_{layer}"))
            x = mb.add(x=x, y=linear(inner, f"down_{layer}"))
        return mb.linear(x=x, weight=WEIGHTS["head"], name="logits")

    if one_state:

        @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
        def one(tokens, position, cache):
            return body(tokens, position, [cache])

        return one

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def several(tokens, position, keys_0, values_0, keys_1, values_1):
        return body(tokens, position, [keys_0, values_0, keys_1, values_1])

    return several


def adapted(adapters=None, *, form: str = "linear", rank: int = RANK):
    """Two layers of x, each with a pair of low rank beside it where weights for that are given."""

    def low_rank(x, number):
        down, up = adapters[number]
        if form == "matmul":
            inner = mb.matmul(x=x, y=np.ascontiguousarray(down.T), name=f"down_{number}")
            made = mb.matmul(x=inner, y=np.ascontiguousarray(up.T), name=f"up_{number}")
        else:
            inner = mb.linear(x=x, weight=down, name=f"down_{number}")
            made = mb.linear(x=inner, weight=up, name=f"up_{number}")
        return made if form == "folded" else mb.mul(x=made, y=np.float16(0.5))

    @mb.program(
        input_specs=[mb.TensorSpec((4, WIDTH), dtype=types.fp16)], opset_version=ct.target.iOS18
    )
    def two_layers(x):
        for number in range(2):
            made = mb.linear(x=x, weight=WEIGHTS[f"q_{number}"], name=f"base_{number}")
            if adapters is not None:
                made = mb.add(x=made, y=low_rank(x, number))
            x = mb.relu(x=made)
        return mb.linear(x=x, weight=WEIGHTS["out_0"], name="y")

    return two_layers


def pairs(seed: int, rank: int = RANK):
    """The weights of an adapter's two pairs: (rank, columns) and (rows, rank)."""
    rng = np.random.default_rng(seed)
    return [
        tuple(
            (rng.standard_normal(shape) * 0.1).astype(np.float16)
            for shape in ((rank, WIDTH), (WIDTH, rank))
        )
        for _ in range(2)
    ]


def save_functions(folder: Path, functions, default: str) -> Path:
    """Saves programs as the functions of one package, as coremltools does; returns its path."""
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, source in functions.items():
        path = str(folder / f"{name}_alone.mlpackage")
        convert(
            source,
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT16,
        ).save(path)
        descriptor.add_function(path, "main", name)
    descriptor.default_function_name = default
    whole = folder / "whole.mlpackage"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.utils.save_multifunction(descriptor, str(whole))
    return whole


def save_lm(folder: Path, *, one_state: bool = False) -> Path:
    """Saves the language model as `prefill` of eight tokens and `decode` of one."""
    functions = {
        name: lm(positions, one_state=one_state)
        for name, positions in (("prefill", PREFILL), ("decode", 1))
    }
    return save_functions(folder, functions, "prefill")


def save_adapters(folder: Path, *, form: str = "linear", base: bool = True) -> Path:
    """Saves the two layers as they are, as `base`, and with two adapters, `first` and `second`."""
    functions = {"base": adapted()} if base else {}
    functions |= {
        name: adapted(pairs(seed), form=form) for seed, name in enumerate(("first", "second"))
    }
    return save_functions(folder, functions, next(iter(functions)))


def talks(count: int = 16, decoded: int = 3, seed: int = 5):
    """Sequences: a prefill of eight tokens, then decoding, a token a step."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        tokens = rng.integers(0, IDS, PREFILL + decoded).astype(np.int32)
        steps = [("prefill", {"tokens": tokens[None, :PREFILL], "position": np.zeros(1, np.int32)})]
        steps += [
            ("decode", {"tokens": tokens[None, at : at + 1], "position": np.array([at], np.int32)})
            for at in range(PREFILL, PREFILL + decoded)
        ]
        found.append(steps)
    return found
