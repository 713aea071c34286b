"""New ops as messages: coremltools' own loader reads back what they state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.frontend.milproto.load import _load_value

from mlpass.program.ir import Constant, Op, TensorType, Value
from mlpass.program.messages import OpList, encode_op
from mlpass.program.proto import MIL


def stated(constant: Constant) -> object:
    """What coremltools reads of a const op that states a constant."""
    message = encode_op(Op("const", "c", {"val": (constant,)}, (Value("c", constant.type),)), 18)
    return _load_value(None, MIL.Value.FromString(message.attributes["val"].SerializeToString()))


@pytest.mark.parametrize(
    "dtype", ["bool", "float16", "float32", "int8", "int16", "int32", "uint8", "uint16", "uint32"]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,)])
def test_elements_of_every_type_are_read_as_they_were_stated(
    dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    got = np.asarray(stated(Constant.of(array)))
    assert got.shape == shape
    np.testing.assert_array_equal(got, array)


def test_text_is_read_as_it_was_stated() -> None:
    assert stated(Constant(TensorType("string", ()), lambda: "int32")) == "int32"


def test_arguments_are_names_or_values_in_their_order() -> None:
    kind = TensorType("fp32", (None, 2))
    first, made = Value("a", kind), Value("y", kind)
    op = Op(
        "concat", "joined", {"values": (first, Constant.of(np.ones((1, 2), np.float32)))}, (made,)
    )
    message = encode_op(op, 16)
    given = message.inputs["values"].arguments
    assert [one.WhichOneof("binding") for one in given] == ["name", "value"]
    assert given[0].name == "a"
    dimensions = message.outputs[0].type.tensorType.dimensions
    assert [one.WhichOneof("dimension") for one in dimensions] == ["unknown", "constant"]
    assert [*message.attributes] == ["name"]


@pytest.mark.parametrize(("opset", "places"), [(17, "attributes"), (18, "inputs")])
def test_parts_of_compressed_weights_are_inputs_from_ios18_on(opset: int, places: str) -> None:
    part = Constant.of(np.ones(3, np.float16))
    made = Value("w", TensorType("fp32", (3,)))
    message = encode_op(Op("constexpr_cast", "w", {"source_val": (part,)}, (made,)), opset)
    assert "source_val" in getattr(message, places)
    assert len(message.attributes) + len(message.inputs) == 2


class _Unsearched(list[Any]):
    """A list that may not be gone through."""

    def __iter__(self) -> Any:
        raise AssertionError("it was gone through")


def test_ops_are_found_whatever_was_edited_before_without_a_search() -> None:
    draw, count = np.random.default_rng(0), 40
    messages = _Unsearched(str(number) for number in range(count))
    listed, expected = OpList(messages), [str(number) for number in range(count)]
    for number in draw.permutation(count).tolist():
        place = expected.index(str(number))
        if draw.random() < 0.3:
            listed.remove(number)
            del expected[place]
        else:
            new = [f"{number} before {index}" for index in range(int(draw.integers(3)))]
            listed.insert_before(number, new)
            expected[place:place] = new

    assert len(expected) != count
    assert [messages[index] for index in range(len(messages))] == expected
