"""Every op that is differentiable is differentiable under torch: against finite differences."""

import warnings

import pytest
import torch
from array_api_compat import torch as xp

from mlpass.runtime.backends.base import load_kernels
from mlpass.runtime.kernels.registry import registered
from mlpass.runtime.kernels.states import Cell
from tests.finetune.kernel_cases import CASES, floats, kernel_of, placed, with_parts

load_kernels("numpy")
load_kernels("torch")

# Those whose results, or the places that they read, are fp32 whatever they are given: a difference
# must be larger than its rounding.
IN_FP32 = {"cast", "crop_resize", "resample", "affine"}

_INTEGERS = "its results are integers or bools"
_STEPS = "its derivative is zero wherever there is one"
_NO_DATA = "it makes its result of no float data"
_DRAWN = "its result is drawn at random"
_STATED = "it decompresses a constant, before training and under numpy"
_HANDS_ON = "it hands on what it is given: see the test of states and lists"
NOT_DIFFERENTIABLE = {
    **dict.fromkeys(("argsort", "reduce_argmax", "reduce_argmin", "non_zero"), _INTEGERS),
    **dict.fromkeys(("equal", "not_equal", "greater", "greater_equal"), _INTEGERS),
    **dict.fromkeys(("less", "less_equal", "shape", "list_length", "quantize"), _INTEGERS),
    **dict.fromkeys(("logical_and", "logical_or", "logical_xor", "logical_not"), _INTEGERS),
    **dict.fromkeys(("ceil", "floor", "round", "sign", "floor_div"), _STEPS),
    **dict.fromkeys(("fill", "fill_like", "one_hot", "range_1d", "make_list"), _NO_DATA),
    "dequantize": "its data are integers",
    **dict.fromkeys((f"random_{name}" for name in ("bernoulli", "normal", "uniform")), _DRAWN),
    "random_categorical": _DRAWN,
    "non_maximum_suppression": "it chooses boxes by hard thresholds",
    "classify": "its results are a label and Python numbers; a module gives the probabilities",
    **dict.fromkeys((op for op in registered() if op.startswith("constexpr_")), _STATED),
    **dict.fromkeys(("read_state", "write_state", "coreml_update_state"), _HANDS_ON),
    **dict.fromkeys(("list_read", "list_write", "list_gather", "list_scatter"), _HANDS_ON),
}


def test_every_op_is_here_or_there():
    checked = {op for op, _, _ in CASES}
    assert not checked & set(NOT_DIFFERENTIABLE)
    ours = {
        op
        for op, versions in registered().items()
        if any(version.function.__module__.startswith("mlpass.") for version in versions)
    }
    assert ours == checked | set(NOT_DIFFERENTIABLE)


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize(("op", "arguments", "opset"), CASES)
def test_gradients_are_finite_differences(op, arguments, opset):
    kernel = kernel_of(op, opset)
    given = {name: placed(value) for name, value in arguments.items()}
    places = list(floats(arguments))

    def call(*parts):
        made = kernel(xp, **with_parts(given, places, parts))
        made = made if isinstance(made, tuple) else (made,)
        return tuple(one.double() for one in made if one.is_floating_point())

    parts = [given[n] if place is None else given[n][place] for n, place in places]
    parts = [part.double().requires_grad_() for part in parts]
    steps = {"eps": 1e-2, "atol": 5e-3} if op in IN_FP32 else {"eps": 1e-6, "atol": 1e-6}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input #", UserWarning)
        assert torch.autograd.gradcheck(call, parts, **steps, nondet_tol=1e-9)


def test_states_and_lists_hand_gradients_on():
    x = torch.ones(2, requires_grad=True)
    run = {op: kernel_of(op, 18) for op in NOT_DIFFERENTIABLE}
    cell = Cell(torch.zeros(2))
    run["write_state"](xp, input=cell, data=2 * x)
    read = run["read_state"](xp, input=cell)
    updated = run["coreml_update_state"](xp, state=cell, value=3 * read)
    some = run["make_list"](xp, elem_shape=(2,), init_length=2)
    some = run["list_write"](xp, ls=some, index=0, value=5 * updated)
    some = run["list_scatter"](xp, ls=some, indices=[1], value=(7 * updated)[None])
    both = run["list_gather"](xp, ls=some, indices=[0, 1])
    (both.sum() + run["list_read"](xp, ls=some, index=0).sum()).backward()
    assert x.grad.tolist() == [6 * 5 + 6 * 7 + 6 * 5] * 2
