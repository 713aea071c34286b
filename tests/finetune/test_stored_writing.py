"""A polished module as a package: the same forms, masks, codes and bytes, with other floats."""

import copy
import shutil
from collections import Counter

import numpy as np
import pytest
import torch

import mlpass
from mlpass.errors import ExecutionError, ModelFormatError, OutputExistsError
from mlpass.finetune import to_stored_module
from mlpass.finetune.stored_writing import write_stored
from mlpass.program.mlpackage import Package
from tests.finetune.compressed import FORMS, compressed
from tests.finetune.networks import FIXTURES
from tests.program.packages import tree


def shaken(path):
    """A module whose floats are a little off, all of them."""
    module = to_stored_module(path)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + 0.05 * torch.randn(parameter.shape)).add_(0.01)
    return module.eval()


def constants(path):
    """How often each constant of the program that is not a float is stated, and each form."""
    with Package(path) as package:
        ops = [
            op
            for program in package.programs
            for function in program.functions.values()
            for op in function.block.walk()
        ]
        return Counter(
            (op.type, parameter, repr(one.type), np.asarray(one.read()).tobytes())
            for op in ops
            for parameter, arguments in op.inputs.items()
            for one in arguments
            if hasattr(one, "load") and not repr(one.type).startswith("TensorType(dtype='fp")
        ), Counter(op.type for op in ops)


@pytest.mark.slow_but_every(24)
@pytest.mark.parametrize("form", FORMS)
def test_forms_and_bytes_stay(form, tmp_path):
    path, output = compressed(form, tmp_path), tmp_path / "out.mlpackage"
    module = shaken(path)
    report = write_stored(module, output, trained=module.floats, force=False)
    again = to_stored_module(output).eval()
    assert again.sites.keys() == module.sites.keys()
    for name in module.sites:
        assert torch.equal(again.weight(name), module.weight(name)), name
    first = to_stored_module(path)
    for name in module.floats:
        assert not torch.equal(again.rounded(name), first.rounded(name)), name
    assert constants(output) == constants(path)
    before = mlpass.inspect(path)
    assert report.bytes_after == pytest.approx(before.bytes_before, abs=4096)
    for old, new in zip(before.layers, mlpass.inspect(output).layers, strict=True):
        kept = ("name", "encoding", "bytes_before", "shape", "dtype", "zeros")
        assert [getattr(old, key) for key in kept] == [getattr(new, key) for key in kept]


def test_what_was_not_trained_is_not_written_anew(tmp_path):
    path = FIXTURES / "quantized_digits.mlpackage"
    module = to_stored_module(path)
    write_stored(module, tmp_path / "same.mlpackage", trained=module.floats, force=False)
    assert tree(tmp_path / "same.mlpackage") == tree(path)
    module = shaken(path)
    report = write_stored(module, tmp_path / "none.mlpackage", trained=(), force=False)
    assert tree(tmp_path / "none.mlpackage") == tree(path)
    assert {layer.method for layer in report.layers} == {None}
    with pytest.raises(OutputExistsError, match="already exists|came into being"):
        write_stored(module, tmp_path / "none.mlpackage", trained=(), force=False)


@pytest.mark.slow
def test_a_copy_is_another_module():
    module = shaken(FIXTURES / "palettized_digits.mlpackage")
    twin = copy.deepcopy(module)
    name = next(iter(module.sites))
    assert torch.equal(twin.weight(name), module.weight(name))
    with torch.no_grad():
        twin.get_parameter(twin.parameter_of(name)).mul_(2)
    assert not torch.equal(twin.weight(name), module.weight(name))


def test_what_is_zero_of_a_weight_stays_so(tmp_path):
    module = shaken(compressed("sparse, iOS18", tmp_path))
    zeros = {name: module.weight(name) == 0 for name in module.sites}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    for name, site in module.sites.items():
        if site.constant is None:
            assert torch.equal(module.weight(name) == 0, zeros[name])
            assert zeros[name].any()


def test_a_value_that_does_not_fit(tmp_path):
    module = to_stored_module(FIXTURES / "quantized_digits.mlpackage")
    with torch.no_grad():
        next(module.parameters()).fill_(1e6)
    with pytest.raises(ExecutionError, match="does not fit fp16: train with a lower rate"):
        write_stored(module, tmp_path / "o.mlpackage", trained=module.floats, force=False)
    assert not (tmp_path / "o.mlpackage").exists()


def test_a_model_that_is_another_by_now(tmp_path):
    path = tmp_path / "m.mlpackage"
    shutil.copytree(FIXTURES / "quantized_digits.mlpackage", path)
    module = to_stored_module(path)
    shutil.rmtree(path)
    shutil.copytree(FIXTURES / "palettized_digits.mlpackage", path)
    with pytest.raises(ModelFormatError, match="is not stored any more as it was: it is not the"):
        write_stored(module, tmp_path / "o.mlpackage", trained=module.floats, force=False)
