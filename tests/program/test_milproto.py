"""MIL's messages: decoded, refused where they are broken, and encoded as coremltools reads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mlpass.errors import ModelFormatError
from mlpass.program import encode, ir
from mlpass.program.dtypes import BY_NAME
from mlpass.program.ir import Constant, Op, TensorType, Value
from mlpass.program.milproto import MilProto, opset_number
from mlpass.program.mlpackage import Package
from mlpass.program.proto import MIL
from mlpass.program.sites import Site, find_sites
from tests.program.packages import (
    FIXTURES,
    first_of,
    main_block,
    operations,
    read_spec,
    set_shape,
)

FLOAT = BY_NAME["fp32"].proto


class NoBlobs:
    """A weight file in which every blob is broken."""

    def read(self, offset: int, dtype: object, count: int) -> ir.Raw:
        raise ModelFormatError("no such blob")

    def check(self, offset: int, dtype: object, count: int) -> None:
        raise ModelFormatError("no such blob")


def decode(program: Any) -> ir.Program:
    """Returns the graph of a program message whose weight files are all broken."""
    return MilProto(program, "part", lambda _: NoBlobs()).program


def small_program() -> Any:
    """Returns the message of `y = relu(x); return y`, with two constants: fp32 [2] and int32 []."""
    program = MIL.Program(version=1)
    function = program.functions["main"]
    function.opset = "CoreML7"
    block = function.block_specializations["CoreML7"]
    _typed(function.inputs.add(name="x"), 2)
    constant = block.operations.add(type="const")
    _name(constant, "weight")
    _typed(constant.attributes["val"], 2).immediateValue.tensor.floats.values.extend([1.5, -2])
    _typed(constant.outputs.add(name="weight"), 2)
    axis = block.operations.add(type="const")
    _name(axis, "axis")
    _typed(axis.attributes["val"], dtype="int32").immediateValue.tensor.ints.values.append(-1)
    _typed(axis.outputs.add(name="axis"), dtype="int32")
    relu = block.operations.add(type="relu")
    _name(relu, "relu_0")
    relu.inputs["x"].arguments.add(name="x")
    _typed(relu.outputs.add(name="y"), 2)
    block.outputs.append("y")
    return program


def _typed(message: Any, *shape: int, dtype: str = "fp32") -> Any:
    message.type.tensorType.dataType = BY_NAME[dtype].proto
    set_shape(message, *shape)
    return message


def _name(operation: Any, name: str) -> None:
    label = _typed(operation.attributes["name"], dtype="string")
    label.immediateValue.tensor.strings.values.append(name)


def block_of(program: Any) -> Any:
    function = program.functions["main"]
    return function.block_specializations[function.opset]


def weight_of(program: Any) -> Any:
    return block_of(program).operations[0].attributes["val"]


def test_a_program_is_decoded() -> None:
    program = decode(small_program())
    function = program.functions["main"]
    weight, axis, relu = function.block.ops

    assert (program.name, program.opset, function.name, function.opset) == ("part", 17, "main", 17)
    assert [value.name for value in function.block.inputs] == ["x"]
    assert (weight.type, weight.name, relu.type, relu.name) == ("const", "weight", "relu", "relu_0")
    assert weight.inputs["val"][0].read().tolist() == [1.5, -2]
    assert axis.inputs["val"][0].read() == -1
    assert axis.inputs["val"][0].shape == ()
    assert relu.inputs["x"] == function.block.inputs
    assert relu.outputs == function.block.outputs
    assert relu.outputs[0].type == TensorType("fp32", (2,))


STATED = [
    ("bool", "bools", [True, False]),
    ("fp16", "bytes", np.array([1.5, -2], np.float16)),
    ("fp32", "floats", [1.5, -2]),
    ("fp64", "doubles", [1e300, -2]),
    ("int4", "bytes", np.array([0x7F], np.uint8)),
    ("int8", "bytes", np.array([1, -2], np.int8)),
    ("int32", "ints", [1, -(1 << 31)]),
    ("int64", "longInts", [1, -(1 << 63)]),
    ("uint1", "bytes", np.array([0b01], np.uint8)),
    ("uint16", "bytes", np.array([1, 65535], np.uint16)),
]


@pytest.mark.parametrize(("dtype", "kind", "values"), STATED, ids=[row[0] for row in STATED])
def test_a_stated_tensor_is_read(dtype: str, kind: str, values: Any) -> None:
    program = small_program()
    tensor = weight_of(program).immediateValue.tensor
    tensor.Clear()
    if kind == "bytes":
        tensor.bytes.values = values.tobytes()
    else:
        getattr(tensor, kind).values.extend(values)
    for message in (weight_of(program), block_of(program).operations[0].outputs[0]):
        message.type.tensorType.dataType = BY_NAME[dtype].proto
    expected = {"int4": [-1, 7], "uint1": [1, 0]}.get(dtype, list(values))

    constant = decode(program).functions["main"].block.ops[0].inputs["val"][0]
    assert constant.dtype.name == dtype
    assert constant.read().tolist() == [getattr(v, "item", lambda v=v: v)() for v in expected]


def _nested(kind: str) -> Callable[[Any], None]:
    """Returns an edit that gives the relu an attribute `extra`: ["a", "b"], as list or tuple."""

    def edit(program: Any) -> None:
        value = block_of(program).operations[2].attributes["extra"]
        for word in ("a", "b"):
            item = getattr(value.immediateValue, kind).values.add()
            _typed(item, dtype="string").immediateValue.tensor.strings.values.append(word)
        if kind == "list":
            _typed(value.type.listType, dtype="string")
            value.type.listType.length.constant.size = 2
        else:
            for _ in range(2):
                value.type.tupleType.types.add().tensorType.dataType = MIL.STRING

    return edit


def _mapping(program: Any) -> Any:
    """Gives the relu an attribute `extra` of {"a": 1}, and returns its one pair."""
    value = block_of(program).operations[2].attributes["extra"]
    value.type.dictionaryType.keyType.tensorType.dataType = MIL.STRING
    value.type.dictionaryType.valueType.tensorType.dataType = MIL.INT32
    pair = value.immediateValue.dictionary.values.add()
    _typed(pair.key, dtype="string").immediateValue.tensor.strings.values.append("a")
    _typed(pair.value, dtype="int32").immediateValue.tensor.ints.values.append(1)
    return pair


def test_lists_tuples_and_dictionaries_are_read() -> None:
    for edit, expected in (
        (_nested("list"), ["a", "b"]),
        (_nested("tuple"), ["a", "b"]),
        (_mapping, {"a": 1}),
    ):
        program = small_program()
        edit(program)
        relu = decode(program).functions["main"].block.ops[2]
        assert relu.inputs["extra"][0].read() == expected


def test_a_state_is_a_type() -> None:
    program = small_program()
    state = program.functions["main"].inputs.add(name="cache")
    state.type.stateType.wrappedType.tensorType.dataType = FLOAT

    cache = decode(program).functions["main"].block.inputs[1]
    assert cache.type == ir.StateType(TensorType("fp32", ()))


def test_an_unknown_size_is_none() -> None:
    program = small_program()
    program.functions["main"].inputs[0].type.tensorType.dimensions[0].unknown.variadic = False

    x = decode(program).functions["main"].block.inputs[0]
    assert x.type == TensorType("fp32", (None,))


def test_a_nested_block_reads_what_is_around_it_and_keeps_its_own_to_itself() -> None:
    program = small_program()
    block = block_of(program)
    outer = block.operations.add(type="cond")
    _typed(outer.outputs.add(name="z"), 2)
    for word in ("inner", "inner"):  # each branch has values of the same names
        inner = outer.blocks.add()
        relu = inner.operations.add(type="relu")
        relu.inputs["x"].arguments.add(name="y")
        _typed(relu.outputs.add(name=word), 2)
        inner.outputs.append(word)

    graph = decode(program).functions["main"].block
    cond = graph.ops[-1]
    first, second = (nested.ops[0] for nested in cond.blocks)
    assert first.inputs["x"] == second.inputs["x"] == graph.outputs
    assert first.outputs[0] is not second.outputs[0]
    assert list(graph.walk()) == [*graph.ops, first, second]
    block.outputs.append("inner")
    with pytest.raises(ModelFormatError, match="reads 'inner', which nothing before it makes"):
        decode(program)


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
        _typed(operation.outputs.add(name="made"), 2)
        return operation

    return edit


def _blob(program: Any) -> None:
    weight_of(program).blobFileValue.fileName = "@model_path/weights/weight.bin"


def _read_own_output(program: Any) -> None:
    block_of(program).operations[2].inputs["x"].arguments[0].name = "y"


def _list_key(program: Any) -> None:
    key = _mapping(program).key
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
        "opset 'iOS17' is none of Core ML's (CoreML5, CoreML6, ...)",
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
    "a list as key": Refused(_list_key, "op 'y' (relu), extra: its keys are no single values"),
    "a broken blob": Refused(_blob, f"{WEIGHT}, val: no such blob"),
    "a broken blob of a function": Refused(
        lambda p: _typed(p.functions["main"].attributes["a"]).blobFileValue.SetInParent(),
        "function 'main', a: no such blob",
    ),
    "a broken blob of the program": Refused(
        lambda p: _typed(p.attributes["a"]).blobFileValue.SetInParent(),
        "the program, a: no such blob",
    ),
    "a broken blob of a block for another opset": Refused(
        lambda p: _typed(
            p.functions["main"].block_specializations["CoreML9"].attributes["a"]
        ).blobFileValue.SetInParent(),
        "function 'main', a: no such blob",
    ),
    "a broken blob in a list": Refused(
        _all(
            _nested("list"),
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
    "a name that is no text": Refused(
        lambda p: (
            block_of(p)
            .operations[2]
            .attributes["name"]
            .CopyFrom(block_of(p).operations[1].attributes["val"])
        ),
        "op 'y' (relu): its name is no text",
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
        lambda p: _typed(_constexpr()(p).outputs[0].type.listType),
        f"{MADE}: must make tensors",
    ),
    "constexpr of two arguments": Refused(
        _constexpr(source_val=2), f"{MADE}: has 2 arguments for 'source_val'"
    ),
    "constexpr of no argument": Refused(
        _constexpr(source_val=0), f"{MADE}: has 0 arguments for 'source_val'"
    ),
    "constexpr that reads an activation": Refused(
        _constexpr(source_val="y"), f"{MADE}: its 'source_val' is no constant"
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
        f"{WEIGHT}, val: its values are no int8: ",
        read=True,
    ),
    "floats beyond fp16": Refused(
        _all(
            _both_types(dtype="fp16"),
            lambda p: weight_of(p).immediateValue.tensor.floats.values.__setitem__(0, 1e9),
        ),
        f"{WEIGHT}, val: its values are no fp16: ",
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


def test_opsets_are_counted_by_ios_version() -> None:
    assert [opset_number(f"CoreML{n}") for n in (5, 6, 7, 8, 9, 10)] == [15, 16, 17, 18, 26, 27]
    for name in ("", "CoreML", "CoreMLx", "CoreML7 ", "CoreML7\n", "CoreML-7", "CoreML9999"):
        with pytest.raises(ModelFormatError, match="is none of Core ML's"):
            opset_number(name)


@pytest.mark.parametrize("opset", ["CoreML7", "CoreML8"])
def test_replaced_ops_are_decoded_as_they_were_encoded(opset: str) -> None:
    program = small_program()
    block = program.functions["main"].block_specializations[opset]
    block.CopyFrom(block_of(program))
    program.functions["main"].opset = opset
    part = MilProto(program, "", lambda _: NoBlobs())
    weight, _, relu = part.program.functions["main"].block.ops
    maker = Op("constexpr_made_up", "new", {"data": (_fp32(3.0, 0.1),)}, relu.outputs)
    before = Op(
        "const", "before", {"val": (_fp32(1e-30),)}, (Value("b", TensorType("fp32", (1,))),)
    )

    part.replace(weight, [before, encode.dense(weight, _fp32(4, 5))], _no_store)
    part.replace(relu, [maker], _no_store)
    ops = decode(program).functions["main"].block.ops

    assert [op.type for op in ops] == ["const", "const", "const", "constexpr_made_up"]
    assert [op.name for op in ops] == ["before", "weight", "axis", "new"]
    assert ops[0].inputs["val"][0].read().tolist() == [np.float32(1e-30)]
    assert ops[1].inputs["val"][0].read().tolist() == [4, 5]
    assert ops[3].inputs["data"][0].read().tolist() == [3, np.float32(0.1)]
    message = block_of(program).operations[3]
    assert ("data" in message.inputs, "data" in message.attributes) == (
        opset == "CoreML8",
        opset == "CoreML7",
    )
    assert not part.owns(weight)
    assert not part.owns(relu)


def _fp32(*values: float) -> Constant:
    return Constant.of(np.array(values, np.float32))


def _no_store(constant: Constant) -> tuple[str, int]:
    raise AssertionError("nothing here goes to a weight file")


SMALL = {
    "fp16": np.array([1.5, -0.0], np.float16),
    "fp32": np.array([np.inf, 1e-45], np.float32),
    "int32": np.array([1, -(1 << 31)], np.int32),
    "int8": np.array([1, -128], np.int8),
    "uint8": np.array([1, 255], np.uint8),
    "uint32": np.array([1, (1 << 32) - 1], np.uint32),
    "empty fp32": np.empty((0,), np.float32),
    "empty int32": np.empty((0, 2), np.int32),
}


@pytest.mark.parametrize("name", SMALL)
def test_stated_constants_survive_encoding(name: str) -> None:
    program = small_program()
    part = MilProto(program, "", lambda _: NoBlobs())
    weight = part.program.functions["main"].block.ops[0]
    constant = Constant.of(SMALL[name])
    output = Value("weight", constant.type)

    part.replace(weight, [Op("const", "weight", {"val": (constant,)}, (output,))], _no_store)
    got = decode(program).functions["main"].block.ops[0].inputs["val"][0].read()

    assert got.dtype == SMALL[name].dtype
    assert got.tobytes() == SMALL[name].tobytes()
    assert got.shape == SMALL[name].shape


def _sites(package: Package) -> list[Site]:
    return [site for site in find_sites(package.programs) if site.refusal is None]


def _load(path: Path) -> Any:
    """Returns a package as coremltools' program."""
    from coremltools.converters.mil.frontend.milproto.load import load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = read_spec(path)
        weights = path / "Data/com.apple.CoreML/weights"
        return load(spec, spec.specificationVersion, str(weights))


def _made(program: Any, name: str) -> Any:
    """Returns what the op that makes `name` computes, and its type, in coremltools."""
    for function in program.functions.values():
        for op in function.operations:
            if op.outputs[0].name == name:
                if op.op_type == "const":
                    return op.op_type, op.outputs[0].val
                return op.op_type, op.materialized_val_inference()
    raise AssertionError(f"nothing makes {name}")


def _sparse(site: Site, keep: Any) -> list[Op]:
    assert site.constant is not None
    weight = site.constant.read()
    opset = max(site.opset, encode.FIRST_SPARSE_OPSET)
    bits = np.packbits(keep.reshape(-1), bitorder="little")
    mask = encode.mask_constant(bits, site.constant.shape, opset, site.constant)
    return [encode.sparse(site.makers[0], mask, Constant.of(weight[keep], site.constant), opset)]


def _dense(site: Site, keep: Any) -> list[Op]:
    assert site.constant is not None
    constant = Constant.of(np.where(keep, site.constant.read(), 0), site.constant)
    return [encode.dense(site.makers[0], constant)]


@pytest.mark.parametrize("form", [_sparse, _dense])
@pytest.mark.parametrize("name", ["digits_ios15", "digits_classifier", "stateful_lm"])
def test_coremltools_loads_what_is_encoded(
    name: str, form: Callable[[Site, Any], list[Op]], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    expected = {}
    with (
        Package(FIXTURES / f"{name}.mlpackage") as package,
        package.rewrite(tmp_path / "out.mlpackage") as rewriter,
    ):
        for site in _sites(package):
            assert site.constant is not None
            assert len(site.makers) == 1
            keep = generator.random(site.shape) < 0.3
            expected[site.name] = np.where(keep, site.constant.read(), 0)
            rewriter.replace(site.makers[0], form(site, keep))
    program = _load(tmp_path / "out.mlpackage")

    assert expected
    for value, array in expected.items():
        op_type, got = _made(program, value)
        assert op_type == ("const" if form is _dense else "constexpr_sparse_to_dense")
        np.testing.assert_array_equal(got.reshape(array.shape), array)


@pytest.mark.parametrize("name", ["palettized_digits", "quantized_digits"])
def test_coremltools_loads_joint_forms(name: str, tmp_path: Path) -> None:
    from mlpass import Percentile, prune
    from mlpass.passes.inspect import weight_of

    output = tmp_path / "out.mlpackage"
    prune(FIXTURES / f"{name}.mlpackage", output, Percentile(0.6), joint_compression=True)
    program = _load(output)
    with Package(output) as package:
        arrays = {
            site.name: weight_of(site)
            for site in find_sites(package.programs)
            if site.makers[0].type == "constexpr_sparse_to_dense"
        }

    assert arrays
    for value, array in arrays.items():
        op_type, got = _made(program, value)
        assert op_type == "constexpr_sparse_to_dense"
        np.testing.assert_array_equal(got, array)


def test_fixtures_are_decoded_op_by_op(package: Path) -> None:
    """Every op of every fixture is there, in order, with its name and the names it reads."""
    spec = read_spec(package)
    with Package(package) as opened:
        ops = [op for p in opened.programs for f in p.functions.values() for op in f.block.walk()]
    messages = operations(spec)

    assert sorted(_digest(op) for op in ops) == sorted(_digest_message(m) for m in messages)


def _digest(op: Op) -> tuple[object, ...]:
    reads = [
        (parameter, argument.name)
        for parameter, arguments in op.inputs.items()
        for argument in arguments
        if isinstance(argument, Value)
    ]
    return op.type, op.name, tuple(value.name for value in op.outputs), tuple(sorted(reads))


def _digest_message(message: Any) -> tuple[object, ...]:
    reads = [
        (parameter, binding.name)
        for parameter, argument in message.inputs.items()
        for binding in argument.arguments
        if binding.WhichOneof("binding") == "name"
    ]
    names = message.attributes["name"].immediateValue.tensor.strings.values
    return message.type, names[0], tuple(o.name for o in message.outputs), tuple(sorted(reads))


def test_the_helpers_find_what_they_should() -> None:
    spec = read_spec(FIXTURES / "branches.mlpackage")
    assert first_of(spec, "cond") in main_block(spec).operations
    assert len(operations(spec)) > len(main_block(spec).operations)
