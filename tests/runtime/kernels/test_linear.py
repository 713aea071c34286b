"""Products of matrices."""

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from harness import NAMESPACES, Record, check, over, run

from mlpass.runtime.kernels import linear as _  # noqa: F401  (registers its kernels)
from mlpass.runtime.kernels.registry import find_kernel

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((5, 4)).astype(np.float32)
BIAS = RNG.standard_normal(5).astype(np.float32)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def integers(*shape):
    return RNG.integers(-9, 9, shape).astype(np.int32)


def linear(x, weight, bias=0):
    return x.astype(np.float64) @ weight.T + bias


def matmul(x, y, transpose_x=False, transpose_y=False):
    x = np.swapaxes(x, -1, -2) if transpose_x and x.ndim > 1 else x
    y = np.swapaxes(y, -1, -2) if transpose_y and y.ndim > 1 else y
    if x.dtype == y.dtype == np.int32:
        return np.matmul(x, y)
    return np.matmul(x.astype(np.float64), y)


def einsum(values, equation):
    return np.einsum(equation, *(value.astype(np.float64) for value in values))


RECORDS = [
    *(
        Record("linear", {"x": floats(*shape, 4), "weight": WEIGHT}, linear, opset=15)
        for shape in ((), (3,), (2, 3), (2, 3, 2), (1, 0, 2))
    ),
    *(
        Record("linear", {"x": floats(*shape, 4), "weight": WEIGHT, "bias": BIAS}, linear, opset=17)
        for shape in ((), (3,), (2, 3), (2, 3, 2))
    ),
    Record(
        "linear",
        {"x": integers(2, 4), "weight": integers(5, 4), "bias": integers(5)},
        lambda x, weight, bias: x @ weight.T + bias,
        name="int",
    ),
    Record(
        "linear",
        {"x": floats(2, 4), "weight": integers(5, 4), "bias": integers(5)},
        linear,
        name="int weight",
    ),
    *(
        Record("matmul", {"x": floats(*x), "y": floats(*y)}, matmul, opset=15, name=f"{x} {y}")
        for x, y in (
            ((2, 3), (3, 4)),
            ((3,), (3,)),
            ((3,), (2, 3, 4)),
            ((2, 4, 3), (3,)),
            ((2, 4, 3), (3, 5)),
            ((6, 2, 4, 3), (3, 5)),
            ((4, 3), (2, 3, 5)),
            ((2, 4, 3), (2, 3, 5)),
            ((6, 4, 3), (5, 6, 3, 2)),
            ((6, 1, 4, 3), (1, 2, 3, 5)),
            ((2, 0, 3), (3, 5)),
            ((2, 4, 0), (0, 5)),
        )
    ),
    *(
        Record(
            "matmul",
            {"x": x, "y": y, "transpose_x": True, "transpose_y": transpose_y},
            matmul,
            name=f"{x.shape} {y.shape} {transpose_y}",
        )
        for x, y, transpose_y in (
            (floats(3, 2), floats(3, 4), False),
            (floats(3, 2), floats(4, 3), True),
            (floats(2, 3, 4), floats(3, 5), False),
            (floats(2, 3, 4), floats(2, 5, 3), True),
            (floats(3), floats(5, 3), True),
            (floats(2, 3, 4), floats(3), True),
        )
    ),
    Record("matmul", {"x": integers(2, 4, 3), "y": integers(3, 5)}, matmul, name="int"),
    Record("matmul", {"x": floats(2, 4, 3), "y": integers(3, 5)}, matmul, name="int y", opset=17),
    Record("matmul", {"x": integers(4, 3), "y": floats(2, 3, 5)}, matmul, name="int x", opset=17),
    *(
        Record(
            "einsum",
            {"values": (floats(*x), floats(*y)), "equation": equation},
            einsum,
            opset=opset,
            name=f"{equation} {x}",
        )
        for equation, x, y, opset in (
            ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6), 15),
            ("bfnh,bhng->bfng", (2, 3, 4, 5), (2, 5, 4, 6), 15),
            ("aBcd,adce->aBce", (2, 3, 4, 5), (2, 5, 4, 6), 18),
            ("chw,whr->chr", (3, 4, 5), (5, 4, 6), 16),
            ("abc , cbd -> abd", (3, 4, 5), (5, 4, 6), 17),
        )
    ),
    *(
        Record(
            "einsum",
            {"values": (floats(*x), floats(*y)), "equation": equation},
            lambda values, equation: np.einsum("...hcw,...hwu->...chu", *map(swapped, values)),
            name=f"broadcast {x} {y}",
        )
        for equation, x, y in (
            ("nchw,nwhu->nchu", (1, 3, 4, 5), (2, 5, 4, 6)),
            ("nchw,nwhu->nchu", (2, 3, 1, 5), (1, 5, 4, 6)),
            ("chw,whu->chu", (3, 4, 5), (5, 1, 6)),
        )
    ),
]


def swapped(value):
    return np.swapaxes(value, -2, -3)


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("equation", ["ab,bc->ac", "nchw,nwhu->nhcu", "nchw,nwhu", "bij,bjk->bik"])
def test_another_equation_is_refused(equation, namespace):
    values = (floats(2, 2, 2), floats(2, 2, 2))
    with pytest.raises(ValueError, match="equation: must be of the form nchw,nwhu->nchu or "):
        run("einsum", {"values": values, "equation": equation}, namespace)


def test_another_number_of_values_is_refused():
    with pytest.raises(ValueError, match=r"values: must be 2 tensors\. Got 1\."):
        run("einsum", {"values": (floats(2, 2, 2),), "equation": "abc,cbd->abd"}, "numpy")


def test_it_is_differentiable():
    x, y, z = (
        torch.tensor(floats(*shape), dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 4), (5, 4), (5,))
    )
    linear, matmul, einsum = (find_kernel(op, 18, "torch") for op in ("linear", "matmul", "einsum"))
    xp = torch_namespace
    check_gradient = torch.autograd.gradcheck
    assert check_gradient(lambda x, w, b: linear(xp, x=x, weight=w, bias=b), (x, y, z))
    assert check_gradient(lambda x, y: matmul(xp, x=x, y=y, transpose_y=True), (x, y))
    right = torch.tensor(floats(4, 3, 2), dtype=torch.float64, requires_grad=True)
    assert check_gradient(
        lambda *values: einsum(xp, values=values, equation="chw,whu->chu"), (x, right)
    )
