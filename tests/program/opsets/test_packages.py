"""Raising whole packages: what changes in them, and all that does not."""

from __future__ import annotations

import warnings
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

import mlpass
from mlpass import ConfigError
from mlpass.program.mlpackage import Package
from mlpass.program.opsets import changes
from mlpass.program.opsets.building import Refused
from mlpass.program.opsets.packages import raise_package
from mlpass.runtime.interpreter import Interpreter
from tests import peer
from tests.program.opsets.raised import check, package_of, raise_to
from tests.program.packages import FIXTURES, MODEL, edit_spec, operations, read_spec
from tests.program.test_mixed_opsets import mixed
from tests.runtime.programs import truth

NAMES = sorted(path.stem for path in FIXTURES.glob("*.mlpackage"))
VERSIONS = {name: read_spec(FIXTURES / f"{name}.mlpackage").specificationVersion for name in NAMES}


def predict(package: Path, name: str) -> dict[str, np.ndarray]:
    if name == "branches":
        inputs = {
            feature.name: np.ones(feature.type.multiArrayType.shape, np.float32)
            for feature in read_spec(package).description.input
        }
    else:
        inputs, _ = truth(name)
    return Interpreter(package).predict(inputs)


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize("name", [name for name in NAMES if VERSIONS[name] < 9])
def test_fixtures_make_the_same_and_coremltools_loads_them(name, tmp_path):
    old = FIXTURES / f"{name}.mlpackage"
    before = predict(old, name)
    for opset, version in {16: 7, 17: 8, 18: 9}.items():
        if version <= VERSIONS[name]:
            continue
        new = raise_to(old, tmp_path / f"{opset}.mlpackage", opset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = ct.models.MLModel(str(new), skip_model_load=True)
            programs = peer.load_programs(new)
        assert model.get_spec().specificationVersion == version
        functions = [one for program in programs for one in program.functions.values()]
        assert {one.opset_version for one in functions} == {getattr(ct.target, f"iOS{opset}")}
        files = [path.relative_to(old) for path in old.rglob("*.bin")]
        assert files
        for file in files:
            assert (new / file).read_bytes() == (old / file).read_bytes()
        for key, array in predict(new, name).items():
            np.testing.assert_array_equal(array, before[key], err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_a_package_of_that_opset_stays_as_it_is(name, tmp_path):
    source = FIXTURES / f"{name}.mlpackage"
    with Package(source) as package:
        raise_package(package, max(program.opset for program in package.programs))
        assert not package.edited
        with package.rewrite(tmp_path / "new.mlpackage"):
            pass
    assert (tmp_path / "new.mlpackage" / MODEL).read_bytes() == (source / MODEL).read_bytes()


def test_lowering_is_an_error(tmp_path):
    text = (
        r"minimum_deployment_target: .*tiny_lm.mlpackage is for iOS17, and a model cannot be "
        r"lowered to iOS16: convert its source again for that"
    )
    with pytest.raises(ConfigError, match=text):
        raise_to(FIXTURES / "tiny_lm.mlpackage", tmp_path / "new.mlpackage", 16)
    assert not (tmp_path / "new.mlpackage").exists()


@pytest.mark.parametrize("opset", [18, 26])
def test_functions_of_several_opsets_become_one(opset, tmp_path):
    old = mixed(tmp_path, (15, 16, 17, 18))
    new = raise_to(old, tmp_path / "new.mlpackage", opset)
    spec = read_spec(new)
    assert spec.specificationVersion == {18: 9, 26: 10}[opset]
    for name, function in spec.mlProgram.functions.items():
        assert function.opset == {18: "CoreML8", 26: "CoreML9"}[opset]
        assert list(function.block_specializations) == [function.opset]
        x = {"x": np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)}
        before, after = (Interpreter(path, function_name=name).predict(x) for path in (old, new))
        np.testing.assert_array_equal(after["picked"], before["picked"])
    with pytest.raises(ConfigError, match="is for iOS18, and a model cannot be lowered to iOS17"):
        raise_to(old, tmp_path / "other.mlpackage", 17)


def test_what_did_not_change_is_not_touched(tmp_path):
    def build(x):
        x = mb.relu(x=x, name="first")
        x = mb.clip(x=x, alpha=0.5, beta=0.25, name="bounds")
        return mb.topk(x=mb.exp(x=x, name="second"), k=2, name="best")

    old = package_of(tmp_path, build, [mb.TensorSpec((2, 5))], 15)
    check(old, {"x": np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)})
    new = tmp_path / "raised18.mlpackage"

    def blocks(path):
        (function,) = read_spec(path).mlProgram.functions.values()
        return {
            op.outputs[0].name: op
            for op in function.block_specializations[function.opset].operations
        }

    before, after = blocks(old), blocks(new)
    changed = {name for name, op in before.items() if after.get(name) != op}
    assert changed == {"bounds", before["best_0" if "best_0" in before else "best"].outputs[0].name}
    assert after["bounds"].type == "minimum"
    assert after["bounds"].attributes["name"] == before["bounds"].attributes["name"]
    assert read_spec(old).description == read_spec(new).description


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (0.5, 0.5), (0.5, -0.5)])
def test_bounds_that_are_not_apart(bounds, tmp_path):
    old = package_of(
        tmp_path,
        lambda x: mb.clip(x=x, alpha=bounds[0], beta=bounds[1], name="y"),
        [mb.TensorSpec((9,))],
        16,
    )
    found = check(old, {"x": np.linspace(-1, 1, 9, dtype=np.float32)}, 17)
    assert found == (["clip"] if bounds[0] < bounds[1] else ["maximum", "minimum"])


def test_ops_that_are_not_formed_as_their_opset_has_them(tmp_path):
    def build(x):
        picked = mb.gather(x=x, indices=np.array([1, 0], np.int32), axis=1, name="picked")
        return mb.clip(x=picked, alpha=0.5, beta=0.25, name="bounds")

    old = package_of(tmp_path, build, [mb.TensorSpec((2, 5))], 16)

    def edit(spec):
        for operation in operations(spec):
            for parameter in ("indices", "beta"):
                operation.inputs.pop(parameter, None)

    edit_spec(old, edit)
    text = (
        "gather 'picked': it is not formed as iOS16 has it; "
        "clip 'bounds': it is not formed as iOS16 has it"
    )
    with pytest.raises(mlpass.UnsupportedOpError, match=text):
        raise_to(old, tmp_path / "new.mlpackage", 17)


def test_a_broken_constant_is_named(tmp_path):
    def build(x):
        return mb.gather(x=x, indices=np.array([1, 0, 1], np.int32), axis=1, name="picked")

    old = package_of(tmp_path, build, [mb.TensorSpec((2, 5))], 16)

    def edit(spec):
        for operation in operations(spec):
            value = operation.attributes["val"] if operation.type == "const" else None
            if value is not None and len(value.immediateValue.tensor.ints.values) == 3:
                del value.immediateValue.tensor.ints.values[:]

    edit_spec(old, edit)
    with pytest.raises(mlpass.ModelFormatError, match=r"gather 'picked': .* states 0 bytes"):
        raise_to(old, tmp_path / "new.mlpackage", 17)


def test_an_op_that_is_gone_is_named_with_all_others(tmp_path, monkeypatch):
    def gone(build):
        raise Refused("iOS18 has no such op")

    monkeypatch.setitem(changes.RULES, ("relu", 18), gone)
    monkeypatch.setitem(changes.RULES, ("exp", 18), gone)
    old = package_of(
        tmp_path,
        lambda x: mb.exp(x=mb.square(x=mb.relu(x=x, name="a"), name="b"), name="c"),
        [mb.TensorSpec((2,))],
        16,
    )
    text = "raised to iOS18: relu 'a': iOS18 has no such op; exp 'c': iOS18 has no such op. Convert"
    with pytest.raises(mlpass.UnsupportedOpError, match=text):
        raise_to(old, tmp_path / "new.mlpackage", 18)
    raise_to(old, tmp_path / "new.mlpackage", 17)
