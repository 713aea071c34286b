"""No two values of a function share a name, whatever names were there before a rewrite."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.optimize import coreml as cto

import mlpass
from mlpass import Percentile
from mlpass.program.ir import Constant, Op, TensorType, Value
from mlpass.program.names import free_name, with_free_names
from tests import peer
from tests.program.packages import edit_spec, main_block, main_function, operations, read_spec
from tests.runtime.programs import convert, program

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((64, 64)).astype(np.float32)
WEIGHT[:, ::2] = 0  # so that Percentile(0.5) changes nothing
X = RNG.standard_normal((1, 64)).astype(np.float32)
OTHER = RNG.standard_normal((1, 64)).astype(np.float32)
ROI = np.array([0, 0, 0, 1, 1], np.float32).reshape(1, 1, 5, 1, 1)


def old_cut(image: Any) -> Any:
    return mb.crop_resize(x=image, roi=ROI, target_height=4, target_width=4, name="cut")


def new_cut(image: Any) -> Any:
    return mb.crop(x=image, crop_height=[0, 4], crop_width=[4, 0], name="cut")


def build(x: Any, other: Any, cut_from: Any) -> Any:
    """A linear layer, all ops that iOS16 gave parameters to, and values wherever there can be."""
    before = mb.add(x=other, y=np.full((1, 64), 0.5, np.float32), name="before")
    x = mb.linear(x=x, weight=mb.const(val=WEIGHT, name="w"), name="dense")
    picked = mb.gather(x=x, indices=np.array([3, 1], np.int32), axis=1, name="picked")
    point = mb.gather_nd(x=x, indices=np.array([[0, 5]], np.int32), name="point")
    values, places = mb.topk(x=x, k=3, axis=1, name="best")
    image = mb.reshape(x=x, shape=[1, 1, 8, 8], name="image")
    cut = cut_from(image)
    nested = mb.cond(
        pred=mb.less(x=mb.reduce_sum(x=x, axes=[0, 1], name="sum"), y=np.float32(1e9), name="is"),
        _true_fn=lambda: mb.gather(
            x=mb.relu(x=x, name="within"), indices=np.array([1], np.int32), axis=1, name="inner"
        ),
        _false_fn=lambda: mb.gather(x=x, indices=np.array([2], np.int32), axis=1, name="inner2"),
        name="nested",
    )
    loop = mb.while_loop(
        _cond=lambda v: mb.less(x=mb.reduce_sum(x=v, axes=[0, 1]), y=np.float32(100.0)),
        _body=lambda v: (mb.add(x=v, y=np.float32(100.0)),),
        loop_vars=(before,),
        name="loop",
    )
    after = mb.relu(x=before, name="after")
    return picked, point, values, places, cut, nested, loop, after


def package(directory: Path, opset: Any) -> Path:
    """Returns a package of `build`."""
    path = directory / "in.mlpackage"
    options = {"minimum_deployment_target": opset, "pass_pipeline": ct.PassPipeline.EMPTY}
    cut = old_cut if opset == ct.target.iOS15 else new_cut

    def built(x: Any, other: Any) -> Any:
        return build(x, other, cut)

    convert(program(built, (1, 64), (1, 64), opset=opset), **options).save(str(path))
    return path


def blocks(block: Any) -> Iterator[Any]:
    """Yields a block message, and those nested in it."""
    yield block
    for operation in block.operations:
        for nested in operation.blocks:
            yield from blocks(nested)


def names_of(spec: Any) -> list[str]:
    """Returns the names of all values of a function, as its message has them."""
    inner = [value.name for block in blocks(main_block(spec)) for value in block.inputs]
    outputs = [value.name for op in operations(spec) for value in op.outputs]
    return [value.name for value in main_function(spec).inputs] + inner + outputs


def twice(package: Path) -> set[str]:
    """Returns the names that several values have: the blocks of a loop call their inputs alike."""
    return {name for name, count in Counter(names_of(read_spec(package))).items() if count > 1}


def rename(spec: Any, old: str, new: str) -> None:
    """Gives a value, and the op that makes it, another name wherever it stands."""
    values = [*main_function(spec).inputs, *spec.description.input, *spec.description.output]
    for block in blocks(main_block(spec)):
        values += block.inputs
        block.outputs[:] = [new if name == old else name for name in block.outputs]
    for operation in operations(spec):
        values += operation.outputs
        values += [each for one in operation.inputs.values() for each in one.arguments if each.name]
        label = operation.attributes["name"].immediateValue.tensor.strings.values
        label[:] = [new if name == old else name for name in label]
    for value in values:
        if value.name == old:
            value.name = new


PLACES = {
    "an input": lambda spec: main_function(spec).inputs[1].name,
    "a constant": lambda spec: first_const(spec, "before"),
    "a value before": lambda spec: "before",
    "a value after": lambda spec: "after",
    "a value in a branch": lambda spec: "within",
    "the input of a block": lambda spec: next(
        value.name for block in blocks(main_block(spec)) for value in block.inputs
    ),
}


def first_const(spec: Any, reader: str) -> str:
    """Returns the name of the constant that an op adds."""
    (op,) = [op for op in operations(spec) if op.outputs[0].name == reader]
    return str(op.inputs["y"].arguments[0].name)


def run(path: Any) -> list[Any]:
    """Returns what a model gives, by place: inputs and outputs may have other names."""
    interpreter = mlpass.Interpreter(path)
    arrays = dict(zip([feature.name for feature in interpreter.inputs], (X, OTHER), strict=True))
    made = interpreter.predict(arrays)
    return [made[feature.name] for feature in interpreter.outputs]


def same(first: list[Any], second: list[Any]) -> bool:
    """Returns whether two models give the same."""
    return len(first) == len(second) == 8 and all(map(np.array_equal, first, second))


RAISED = {
    "picked": ("gather", "batch_dims"),
    "point": ("gather_nd", "batch_dims"),
    "best": ("topk", "sort"),
    "best ": ("topk", "return_indices"),
    "cut": ("crop_resize", "pad_value"),
    "inner": ("gather", "batch_dims"),
}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("old"), ct.target.iOS15)


@pytest.mark.slow_but_every(10)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", RAISED)
def test_raising_an_opset_takes_names_that_are_free(
    case: str, place: str, old: Path, tmp_path: Path
) -> None:
    op_type, parameter = RAISED[case]
    source = tmp_path / "in.mlpackage"
    mlpass.prune(old, source, {"global_config": None})  # a copy

    def edit(spec: Any) -> None:
        (op,) = [
            op
            for op in operations(spec)
            if op.type == op_type and op.outputs[0].name.startswith(case.strip())
            if op.outputs[0].name != "inner2"
        ]
        rename(spec, PLACES[place](spec), f"{op.outputs[0].name}_{parameter}_default")

    edit_spec(source, edit)
    before = run(source)
    (layer,) = mlpass.prune(source, tmp_path / "out.mlpackage", Percentile(0.5)).layers
    assert layer.encoding == "sparse"
    assert twice(tmp_path / "out.mlpackage") == twice(source)
    assert same(run(tmp_path / "out.mlpackage"), before)
    now = peer.all_ops(peer.load_programs(tmp_path / "out.mlpackage"))
    was = peer.all_ops(peer.load_programs(source))
    assert [*map(peer.described, peer.running_ops(now))] == [
        *map(peer.described, peer.running_ops(was))
    ]


def test_two_branches_may_share_names(old: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.mlpackage", tmp_path / "out.mlpackage"
    mlpass.prune(old, source, {"global_config": None})
    edit_spec(source, lambda spec: rename(spec, "inner2", "inner"))
    before = run(source)
    mlpass.prune(source, out, Percentile(0.5))
    assert twice(source) == {"inner", *twice(old)}
    assert twice(out) == twice(source)
    assert same(run(out), before)


FORMS: dict[str, dict[str, Any]] = {
    "quantized": {"storage": "int8"},
    "palettized": {"storage": {"palettize": 4}},
}
INVENTED = ("w_mask", "w_nonzero", "w_indices_mask", "w_data_mask", "w_scale", "w_lut")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("new"), ct.target.iOS18)


def solve(form: str, *arguments: Any) -> None:
    """Prunes a model, a package or a program in place, and stores the weight in a joint form."""
    names = [feature.name for feature in mlpass.Interpreter(arguments[0]).inputs]
    samples = [dict(zip(names, (X, OTHER), strict=True))]
    options = {"sample_data": samples, "method": mlpass.Magnitude(), **FORMS[form]}
    (layer,) = mlpass.prune(*arguments, Percentile(0.5), **options).layers
    assert layer.encoding == f"sparse + {form}"


def made_weight(programs: list[Any]) -> Any:
    """Returns the value named w in programs, as coremltools makes it."""
    (made,) = [op for op in peer.all_ops(programs) if op.outputs[0].name == "w"]
    assert made.op_type == "constexpr_sparse_to_dense"
    return peer.value_of(made)


@pytest.fixture(scope="module", params=FORMS)
def joint(
    request: pytest.FixtureRequest, new: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, list[Any]]:
    """A joint form, with the weight and the outputs that it gives where all names are free."""
    out = tmp_path_factory.mktemp("joint") / "out.mlpackage"
    solve(request.param, new, out)
    weight = made_weight(peer.load_programs(out))
    assert not weight[:, ::2].any()
    assert np.corrcoef(weight.ravel(), WEIGHT.ravel())[0, 1] > 0.95
    return request.param, weight, run(out)


@pytest.mark.slow_but_every(25)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("taken", INVENTED)
def test_joint_forms_take_names_that_are_free(
    taken: str, place: str, joint: Any, new: Path, tmp_path: Path
) -> None:
    form, weight, outputs = joint
    source, out = tmp_path / "in.mlpackage", tmp_path / "out.mlpackage"
    mlpass.prune(new, source, {"global_config": None})
    edit_spec(source, lambda spec: rename(spec, PLACES[place](spec), taken))
    solve(form, source, out)
    assert twice(out) == twice(source)
    assert peer.same(made_weight(peer.load_programs(out)), weight)
    assert same(run(out), outputs)


@pytest.mark.slow_but_every(25)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("taken", INVENTED)
def test_programs_in_memory_take_names_that_are_free(
    taken: str, place: str, joint: Any, new: Path, tmp_path: Path
) -> None:
    form, weight, outputs = joint
    source = tmp_path / "in.mlpackage"
    mlpass.prune(new, source, {"global_config": None})
    edit_spec(source, lambda spec: rename(spec, PLACES[place](spec), taken))
    (live,) = peer.load_programs(source)
    solve(form, live)
    names = [value.name for op in peer.all_ops([live]) for value in op.outputs]
    names += live.functions["main"].inputs
    names += [
        value.name for op in peer.all_ops([live]) for block in op.blocks for value in block.inputs
    ]
    assert {name for name, count in Counter(names).items() if count > 1} == twice(source)
    assert taken in names
    assert peer.same(made_weight([live]), weight)
    assert same(run(live), outputs)


@pytest.mark.parametrize("form", FORMS)
def test_weights_that_are_compressed_already(form: str, new: Path, tmp_path: Path) -> None:
    outputs = []
    for names in (("after", "within"), ("w_mask", "w_nonzero")):
        source, out = tmp_path / f"{names[0]}_in.mlpackage", tmp_path / f"{names[0]}.mlpackage"
        compress(form, new, source)
        edit_spec(source, lambda spec, to=names[0]: rename(spec, "after", to))
        edit_spec(source, lambda spec, to=names[1]: rename(spec, "within", to))
        (layer,) = mlpass.prune(source, out, Percentile(0.5), joint_compression=True).layers
        assert layer.encoding == f"sparse + {form}"
        assert twice(out) == twice(source)
        assert set(names) < set(names_of(read_spec(out)))
        outputs.append(run(out))
    assert same(*outputs)


def compress(form: str, package: Path, out: Path) -> None:
    """Has coremltools quantize or palettize the weight of a package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ct.models.MLModel(str(package), skip_model_load=True)
        if form == "quantized":
            config = cto.OpLinearQuantizerConfig(weight_threshold=1024)
            made = cto.linear_quantize_weights(model, cto.OptimizationConfig(config))
        else:
            config = cto.OpPalettizerConfig(nbits=4, mode="uniform", weight_threshold=1024)
            made = cto.palettize_weights(model, cto.OptimizationConfig(config))
        made.save(str(out))


def test_what_names_the_storage_of_a_part_is_free(tmp_path: Path) -> None:
    def layers(x: Any) -> Any:
        taken = mb.const(val=OTHER, name="elsewhere")
        taken.op.weight_id = "shared_mask"
        weight = mb.const(val=WEIGHT, name="w")
        weight.op.weight_id = "shared"
        return mb.linear(x=mb.add(x=x, y=taken), weight=weight, name="y")

    live = program(layers, (1, 64), opset=ct.target.iOS18)
    live.add_function("other", program(layers, (1, 64), opset=ct.target.iOS18).functions["main"])
    live.export_as_multifunction = True
    (layer,) = mlpass.prune(live, Percentile(0.5)).layers
    assert layer.encoding == "sparse"
    masks = [
        op.inputs["mask"].op.weight_id
        for op in peer.all_ops([live])
        if op.op_type == "constexpr_sparse_to_dense"
    ]
    assert masks == ["shared_mask_1"] * 2
    options = {"minimum_deployment_target": ct.target.iOS18}
    convert(live, pass_pipeline=ct.PassPipeline.EMPTY, **options).save(
        str(tmp_path / "a.mlpackage")
    )
    for function in ("main", "other"):
        interpreter = mlpass.Interpreter(tmp_path / "a.mlpackage", function_name=function)
        (made,) = interpreter.predict({interpreter.inputs[0].name: X}).values()
        np.testing.assert_allclose(made, (X + OTHER) @ WEIGHT.T, rtol=1e-4, atol=1e-4)


def test_a_free_name_is_taken_from_then_on() -> None:
    taken = {"a", "a_1", "b"}
    assert [free_name("a", taken) for _ in range(3)] == ["a_2", "a_3", "a_4"]
    assert [free_name("c", taken), free_name("c", taken)] == ["c", "c_1"]
    assert taken == {"a", "a_1", "a_2", "a_3", "a_4", "b", "c", "c_1"}


def test_what_reads_a_renamed_value_reads_it_still() -> None:
    kind = TensorType("fp32", (1,))
    constant, last = Constant.of(np.ones(1, np.float32)), Value("w", kind)
    first, second = Value("w_mask", kind), Value("w_2", kind)
    ops = [
        Op("const", "w_mask", {"val": (constant,)}, (first,)),
        Op("made_up", "w_op", {"x": (first,), "y": (constant,)}, (second,)),
        Op("made_up", "w", {"x": (second, first)}, (last,)),
    ]
    named = with_free_names(ops, {"w", "w_mask", "w_2"})
    assert [op.name for op in named] == ["w_mask_1", "w_op", "w"]
    assert [op.outputs[0].name for op in named] == ["w_mask_1", "w_2_1", "w"]
    assert named[1].inputs == {"x": named[0].outputs, "y": (constant,)}
    assert named[2].inputs["x"] == (named[1].outputs[0], named[0].outputs[0])
    assert named[2].outputs == (last,)


def test_results_of_the_old_op_keep_their_names_wherever_they_are_made() -> None:
    kind = TensorType("fp32", (1,))
    kept, last, new = Value("best", kind), Value("count", kind), Value("best", kind)
    ops = [
        Op("made_up", "op", {}, (kept, new)),
        Op("made_up", "op", {"x": (kept, new)}, (last,)),
    ]
    named = with_free_names(ops, {"best", "count", "op"}, (kept, last))
    assert [value.name for value in named[0].outputs] == ["best", "best_1"]
    assert named[0].outputs[0] is kept
    assert named[1].inputs["x"] == named[0].outputs
    assert named[1].outputs == (last,)
