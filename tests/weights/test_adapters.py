"""Adapters: which weights are taken for halves of them."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from mlpass.program.mlpackage import Package
from mlpass.weights.sites import find_sites
from tests.multifunction import WEIGHTS, WIDTH, adapted, pairs, save_adapters, save_functions
from tests.runtime.programs import convert


def adapters_of(package):
    """The weights that are taken for adapters, by the op that reads them and the function."""
    with Package(package) as opened:
        sites = find_sites(opened.programs)
    return sorted(
        (site.uses[0].op.outputs[0].name.split("_cast")[0], *site.functions)
        for site in sites
        if site.is_adapter
    )


EVERY = sorted(
    (f"{half}_{layer}", name)
    for half in ("down", "up")
    for layer in range(2)
    for name in ("first", "second")
)


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("form", ["linear", "matmul", "folded"])
def test_pairs_beside_what_functions_share_are_adapters(tmp_path, form):
    assert adapters_of(save_adapters(tmp_path, form=form)) == EVERY


def test_also_where_every_function_has_one_of_its_own(tmp_path):
    assert adapters_of(save_adapters(tmp_path, base=False)) == EVERY


def test_weights_that_all_functions_share_are_not(tmp_path):
    same = pairs(0)
    functions = {"first": adapted(same), "second": adapted(same)}
    assert adapters_of(save_functions(tmp_path, functions, "first")) == []


def test_nor_those_of_the_only_function(tmp_path):
    path = str(tmp_path / "m.mlpackage")
    options = {"minimum_deployment_target": ct.target.iOS18}
    convert(adapted(pairs(0)), **options).save(path)
    assert adapters_of(path) == []


def test_nor_pairs_of_a_high_rank(tmp_path):
    wide = WIDTH // 2 + 8
    functions = {"base": adapted(), "first": adapted(pairs(0, rank=wide))}
    assert adapters_of(save_functions(tmp_path, functions, "base")) == []


def branch(beside=None):
    """A linear op, or a convolution of 1, and what is made of its input and output beside it."""

    @mb.program(
        input_specs=[mb.TensorSpec((1, WIDTH, 2, 2), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def layer(x):
        x = mb.relu(x=x)
        base = mb.conv(x=x, weight=WEIGHTS["q_0"][:, :, None, None], name="base")
        return mb.relu(x=base if beside is None else beside(x, base), name="y")

    return layer


def conv(x, weight, name):
    return mb.conv(x=x, weight=np.ascontiguousarray(weight[:, :, None, None]), name=name)


DOWN, UP = pairs(1)[0]


def parallel(x, base):
    return mb.add(x=mb.relu(x=conv(mb.relu(x=conv(x, DOWN, "down")), UP, "up")), y=base)


def after(x, base):
    """What reads the base's output, not its input, is a layer of its own."""
    return mb.add(x=conv(conv(base, DOWN, "down"), UP, "up"), y=base)


def multiplied(x, base):
    return mb.mul(x=conv(conv(x, DOWN, "down"), UP, "up"), y=base)


def single(x, base):
    return mb.add(x=conv(x, WEIGHTS["k_0"], "beside"), y=base)


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        (parallel, [("down", "other"), ("up", "other")]),
        (after, []),
        (multiplied, []),
        (single, []),
    ],
)
def test_convolutions_beside_or_behind_one_that_functions_share(tmp_path, beside, expected):
    functions = {"base": branch(), "other": branch(beside)}
    assert adapters_of(save_functions(tmp_path, functions, "base")) == expected


def embedded(down=None):
    """Rows of a table, and rows of a small one times a matrix beside them."""

    @mb.program(input_specs=[mb.TensorSpec((4,), dtype=types.int32)], opset_version=ct.target.iOS18)
    def table(ids):
        x = mb.gather(x=WEIGHTS["table"], indices=ids, axis=0, name="base")
        if down is not None:
            rows = mb.gather(x=down, indices=ids, axis=0, name="down")
            x = mb.add(x=x, y=mb.linear(x=rows, weight=UP, name="up"))
        return mb.relu(x=x)

    return table


def test_a_table_has_adapters_as_well(tmp_path):
    rows = np.random.default_rng(4).standard_normal((96, 8)).astype(np.float16)
    package = save_functions(tmp_path, {"base": embedded(), "other": embedded(rows)}, "base")
    assert [name for name, _ in adapters_of(package)] == ["down", "up"]
