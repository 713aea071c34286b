"""A user's kernel takes the place of mlpass's own; mlpass's own are there once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb
from programs import program

import mlpass
from mlpass.errors import ConfigError
from mlpass.runtime.kernels import registry
from mlpass.runtime.kernels.registry import find_kernel

pytestmark = pytest.mark.usefixtures("forget_kernels")

X = np.linspace(-3, 3, 7, dtype=np.float32)
# As a module of mlpass's would.
OURS = """
from mlpass.runtime.kernels.registry import kernel

@kernel("wobble", since={since}, backend={backend!r})
def wobble(xp, *, x):
    return x
"""


def gelu_of(backend: str, opset: Any = ct.target.iOS17) -> np.ndarray[Any, Any]:
    source = program(lambda x: mb.gelu(x=x, mode="EXACT", name="out"), (7,), opset=opset)
    (made,) = mlpass.Interpreter(source, backend=backend).predict({"x": X}).values()
    return np.asarray(made)


def constant(value: float) -> Callable[..., Any]:
    def gelu(xp: Any, *, x: Any, mode: Any = "EXACT") -> Any:
        return xp.zeros_like(x) + value

    return gelu


def register_ours(since: int = 13, backend: str | None = None) -> None:
    exec(OURS.format(since=since, backend=backend), {"__name__": "mlpass.runtime.kernels.mine"})


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_users_kernel_changes_what_the_interpreter_gives(backend: str) -> None:
    exact = torch.nn.functional.gelu(torch.from_numpy(X)).numpy()
    assert np.allclose(gelu_of(backend), exact, atol=1e-6)
    mlpass.kernel("gelu")(constant(5))
    assert gelu_of(backend).tolist() == [5] * 7
    mlpass.kernel("gelu")(constant(6))  # a notebook's cell, run again
    assert gelu_of(backend).tolist() == [6] * 7


def test_the_registry_was_put_back() -> None:
    assert np.allclose(gelu_of("numpy"), torch.nn.functional.gelu(torch.from_numpy(X)), atol=1e-6)
    assert all(version.ours for version in registry.registered()["gelu"])


def test_a_users_kernel_for_one_backend_leaves_the_other() -> None:
    exact = gelu_of("numpy")
    mlpass.kernel("gelu", backend="torch")(constant(5))
    assert np.array_equal(gelu_of("numpy"), exact)
    assert gelu_of("torch").tolist() == [5] * 7
    mlpass.kernel("gelu")(constant(6))
    assert gelu_of("numpy").tolist() == [6] * 7
    assert gelu_of("torch").tolist() == [5] * 7


def test_a_users_kernel_holds_from_its_opset_on() -> None:
    exact = gelu_of("numpy", ct.target.iOS15)
    mlpass.kernel("gelu", since=16)(constant(5))
    assert np.array_equal(gelu_of("numpy", ct.target.iOS15), exact)
    assert gelu_of("numpy", ct.target.iOS16).tolist() == [5] * 7
    mlpass.kernel("gelu", since=18)(constant(6))
    assert gelu_of("numpy", ct.target.iOS17).tolist() == [5] * 7


@pytest.mark.parametrize("first", ["ours", "user's"])
def test_a_users_kernel_wins_whenever_it_is_registered(first: str) -> None:
    mine = constant(5)
    if first == "ours":
        register_ours(since=16)
    mlpass.kernel("wobble")(mine)
    if first != "ours":
        register_ours(since=16)
    register_ours(since=17, backend="torch")
    for backend in ("numpy", "torch"):
        for opset in (13, 16, 18):
            assert find_kernel("wobble", opset, backend) is mine


def test_a_kernel_of_ours_under_a_users_wrapper_is_the_users() -> None:
    ours = find_kernel("gelu", 17)
    assert ours is not None

    @mlpass.kernel("gelu")
    @functools.wraps(ours)
    def doubled(xp: Any, **arguments: Any) -> Any:
        return 2 * ours(xp, **arguments)

    exact = torch.nn.functional.gelu(torch.from_numpy(X)).numpy()
    assert np.allclose(gelu_of("numpy"), 2 * exact, atol=1e-6)


def test_a_second_of_ours_is_an_error() -> None:
    register_ours()
    register_ours(since=16)
    register_ours(backend="torch")
    text = "kernel: wobble has one already since iOS16 for any backend: wobble of mlpass.*mine"
    with pytest.raises(ConfigError, match=text):
        register_ours(since=16)
    with pytest.raises(ConfigError, match="wobble has one already since iOS13 for backend 'torch'"):
        register_ours(backend="torch")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"op_types": ()}, "kernel: name the ops that it is for"),
        ({"op_types": (len,)}, "kernel: name the ops that it is for"),
        (
            {"op_types": ("gelu",), "backend": "troch"},
            "must be .* Got 'troch', did you mean 'torch'",
        ),
        ({"op_types": ("while_loop",)}, "while_loop is run by mlpass itself, never by a kernel"),
        ({"op_types": ("const",)}, "const is run by mlpass itself, never by a kernel"),
    ],
)
def test_a_kernel_that_nothing_would_run_is_an_error(arguments: dict[str, Any], text: str) -> None:
    options = {key: value for key, value in arguments.items() if key != "op_types"}
    with pytest.raises(ConfigError, match=text):
        mlpass.kernel(*arguments["op_types"], **options)(constant(5))
