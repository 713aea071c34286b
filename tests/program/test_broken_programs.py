"""What is wrong in the message of a program is an error that says where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from mlpass.errors import ModelFormatError
from mlpass.program.dtypes import BY_NAME
from mlpass.program.proto import MIL
from tests.program.messages import block_of, decode, mapping, nested, small_program, weight_of
from tests.program.packages import set_shape, typed


def _set(path: str, value: object) -> Callable[[Any], None]:
    """Returns an edit that sets one field of the weight's value message."""

    def edit(program: Any) -> None:
        *parts, last = path.split(".")
        message = weight_of(program)
        for part in parts:
            message = getattr(message, part)
        setattr(message, last, value)

    return edit


def _both_types(**change: Any) -> Callable[[Any], None]:
    """Returns an edit that gives the weight, as value and as output, another type."""

    def edit(program: Any) -> None:
        for message in (weight_of(program), block_of(program).operations[0].outputs[0]):
            if "dtype" in change:
                message.type.tensorType.dataType = BY_NAME[change["dtype"]].proto
            if "shape" in change:
                set_shape(message, *change["shape"])

    return edit


def _strings(*words: str) -> Callable[[Any], None]:
    def edit(program: Any) -> None:
        weight_of(program).immediateValue.tensor.strings.values.extend(words)

    return edit


def _all(*edits: Callable[[Any], Any]) -> Callable[[Any], None]:
    def edit(program: Any) -> None:
        for one in edits:
            one(program)

    return edit


def _constexpr(**arguments: int | str) -> Callable[[Any], Any]:
    """Returns an edit that adds a constexpr op with so many arguments, or one that it names."""

    def edit(program: Any) -> Any:
        operation = block_of(program).operations.add(type="constexpr_cast")
        for parameter, what in arguments.items():
            argument = operation.inputs[parameter]
            argument.SetInParent()
            names = [what] if isinstance(what, str) else ["weight"] * what
            for name in names:
                argument.arguments.add(name=name)
        typed(operation.outputs.add(name="made"), 2)
        return operation

    return edit


def _blob(program: Any) -> None:
    weight_of(program).blobFileValue.fileName = "@model_path/weights/weight.bin"


def _read_own_output(program: Any) -> None:
    block_of(program).operations[2].inputs["x"].arguments[0].name = "y"


def _list_key(program: Any) -> None:
    key = mapping(program).key
    key.type.listType.type.tensorType.dataType = MIL.STRING
    key.immediateValue.list.SetInParent()


class Refused(NamedTuple):
    edit: Callable[[Any], Any]
    message: str
    read: bool = False  # whether only reading the weight notices


WEIGHT = "function 'main', op 'weight' (const)"
MADE = "function 'main', op 'made' (constexpr_cast)"
REFUSED = {
    "unknown opset": Refused(
        lambda p: setattr(p.functions["main"], "opset", "iOS17"),
        "opset 'iOS17' is not one of Core ML's (CoreML5, CoreML6, ...)",
    ),
    "no block": Refused(
        lambda p: setattr(p.functions["main"], "opset", "CoreML8"),
        "function 'main': has no block for its opset 'CoreML8'",
    ),
    "unknown name": Refused(
        lambda p: block_of(p).outputs.append("nowhere"),
        "function 'main', its outputs: reads 'nowhere', which nothing before it makes",
    ),
    "cycle": Refused(
        _read_own_output,
        "function 'main', op 'y' (relu): reads 'y', which nothing before it makes",
    ),
    "unknown element type": Refused(
        _set("type.tensorType.dataType", 999), f"{WEIGHT}, val: unknown element type 999"
    ),
    "no type": Refused(
        lambda p: p.functions["main"].inputs[0].ClearField("type"),
        "function 'main', 'x': has no type",
    ),
    "size near 2**64": Refused(
        _both_types(shape=((1 << 64) - 1,)),
        f"{WEIGHT}, val: no tensor can have the shape (18446744073709551615,)",
    ),
    "shape product near 2**63": Refused(
        _both_types(shape=(1 << 21, 1 << 21, (1 << 21) - 1)),
        "no tensor can have the shape (2097152, ",
    ),
    "a shape that is empty, but huge": Refused(
        _both_types(shape=(0, 1 << 62, 1 << 62)), "no tensor can have the shape (0, "
    ),
    "rank beyond numpy's": Refused(
        _both_types(shape=(1,) * 65), "no tensor can have the shape (1, 1, "
    ),
    "no value": Refused(
        lambda p: weight_of(p).ClearField("immediateValue"),
        f"{WEIGHT}, val: states no value of its type TensorType(dtype='fp32', shape=(2,))",
    ),
    "a value of another kind": Refused(
        lambda p: (
            weight_of(p).type.listType.length.unknown.SetInParent()
            or weight_of(p).type.listType.type.CopyFrom(p.functions["main"].inputs[0].type)
        ),
        "states no value of its type ListType(",
    ),
    "a list as key": Refused(_list_key, "op 'y' (relu), extra: its keys are not single values"),
    "a broken blob": Refused(_blob, f"{WEIGHT}, val: no such blob"),
    "a broken blob of a function": Refused(
        lambda p: typed(p.functions["main"].attributes["a"]).blobFileValue.SetInParent(),
        "function 'main', a: no such blob",
    ),
    "a broken blob of the program": Refused(
        lambda p: typed(p.attributes["a"]).blobFileValue.SetInParent(),
        "the program, a: no such blob",
    ),
    "a broken blob of a block for another opset": Refused(
        lambda p: typed(
            p.functions["main"].block_specializations["CoreML9"].attributes["a"]
        ).blobFileValue.SetInParent(),
        "function 'main', a: no such blob",
    ),
    "a broken blob in a list": Refused(
        _all(
            nested("list"),
            lambda p: (
                block_of(p)
                .operations[2]
                .attributes["extra"]
                .immediateValue.list.values[0]
                .blobFileValue.SetInParent()
            ),
        ),
        "op 'y' (relu), extra: no such blob",
    ),
    "a list in a weight file": Refused(
        _all(lambda p: weight_of(p).type.listType.type.tensorType.SetInParent(), _blob),
        "unknown element type 0",
    ),
    "a blob of unknown size": Refused(
        _all(
            _blob,
            lambda p: weight_of(p).type.tensorType.dimensions[0].unknown.SetInParent(),
        ),
        f"{WEIGHT}, val: a weight file cannot hold a TensorType(dtype='fp32', shape=(None,))",
    ),
    "a name that is not text": Refused(
        lambda p: (
            block_of(p)
            .operations[2]
            .attributes["name"]
            .CopyFrom(block_of(p).operations[1].attributes["val"])
        ),
        "op 'y' (relu): its name is not text",
    ),
    "const without val": Refused(
        lambda p: block_of(p).operations[0].attributes.__delitem__("val"),
        f"{WEIGHT}: must state one value, its val",
    ),
    "const without output": Refused(
        lambda p: block_of(p).operations[0].outputs.__delitem__(0),
        "op 'const' (const): must state one value, its val",
    ),
    "const that reads": Refused(
        lambda p: block_of(p).operations[0].inputs["val"].arguments.add(name="x"),
        f"{WEIGHT}: must state one value, its val",
    ),
    "const of two types": Refused(
        lambda p: set_shape(block_of(p).operations[0].outputs[0], 2, 1),
        f"{WEIGHT}: states a TensorType(dtype='fp32', shape=(2,)), its output is a "
        "TensorType(dtype='fp32', shape=(2, 1))",
    ),
    "constexpr without output": Refused(
        lambda p: _constexpr()(p).outputs.__delitem__(0), "(constexpr_cast): must make tensors"
    ),
    "constexpr that makes a list": Refused(
        lambda p: typed(_constexpr()(p).outputs[0].type.listType),
        f"{MADE}: must make tensors",
    ),
    "constexpr of two arguments": Refused(
        _constexpr(source_val=2), f"{MADE}: has 2 arguments for 'source_val'"
    ),
    "constexpr of no argument": Refused(
        _constexpr(source_val=0), f"{MADE}: has 0 arguments for 'source_val'"
    ),
    "constexpr that reads an activation": Refused(
        _constexpr(source_val="y"), f"{MADE}: its 'source_val' is not a constant"
    ),
    "too few values": Refused(
        lambda p: weight_of(p).immediateValue.tensor.floats.values.pop(),
        f"{WEIGHT}, val: states 4 bytes where 2 elements of fp32 take 8",
        read=True,
    ),
    "too many bytes": Refused(
        _set("immediateValue.tensor.bytes.values", bytes(9)),
        f"{WEIGHT}, val: states 9 bytes where 2 elements of fp32 take 8",
        read=True,
    ),
    "no tensor at all": Refused(
        lambda p: weight_of(p).immediateValue.tensor.Clear(),
        f"{WEIGHT}, val: states 0 bytes where 2 elements of fp32 take 8",
        read=True,
    ),
    "strings for floats": Refused(
        _strings("1", "2"), f"{WEIGHT}, val: its values are strings, not fp32", read=True
    ),
    "floats for strings": Refused(
        _both_types(dtype="string"), f"{WEIGHT}, val: its values are floats, not string", read=True
    ),
    "too few strings": Refused(
        _all(_both_types(dtype="string"), _strings("1")),
        f"{WEIGHT}, val: states 1 strings where there are 2",
        read=True,
    ),
    "bf16 in words": Refused(
        _both_types(dtype="bf16"),
        f"{WEIGHT}, val: bf16 values are not stated as bytes",
        read=True,
    ),
    "ints beyond int8": Refused(
        _all(
            _both_types(dtype="int8"),
            lambda p: weight_of(p).immediateValue.tensor.ints.values.extend([1, 128]),
        ),
        f"{WEIGHT}, val: its values are not int8: ",
        read=True,
    ),
    "floats beyond fp16": Refused(
        _all(
            _both_types(dtype="fp16"),
            lambda p: weight_of(p).immediateValue.tensor.floats.values.__setitem__(0, 1e9),
        ),
        f"{WEIGHT}, val: its values are not fp16: ",
        read=True,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_program_is_refused(case: str) -> None:
    edit, message, read = REFUSED[case]
    program = small_program()
    edit(program)

    if read:
        constant = decode(program).functions["main"].block.ops[0].inputs["val"][0]
        with pytest.raises(ModelFormatError) as caught:
            constant.read()
    else:
        with pytest.raises(ModelFormatError) as caught:
            decode(program)
    assert message in str(caught.value)
