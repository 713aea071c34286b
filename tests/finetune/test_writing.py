"""What MagnitudePruner writes, and sparse models that train on."""

import numpy as np
import pytest
import torch

import mlpass
from mlpass import NM, Percentile
from mlpass.errors import (
    ExecutionError,
    ModelFormatError,
    OutputExistsError,
)
from mlpass.finetune import ConstantSparsity, MagnitudePruner, PolynomialDecay, to_module
from tests.finetune.networks import FIXTURES, by_rank
from tests.finetune.training import DIGITS, masks_of, start, train
from tests.runtime.programs import truth


@pytest.mark.parametrize("name", ["digits_ios15", "digits_pipeline", "digits_classifier"])
def test_the_package_is_sparse_where_the_masks_say_and_computes_the_same(tmp_path, name):
    path, output = FIXTURES / f"{name}.mlpackage", tmp_path / "out.mlpackage"
    module, pruner = start(Percentile(0.75), ConstantSparsity(1), path)
    if name == "digits_ios15":
        train(module, pruner, 4)
    else:
        pruner.step()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1 + torch.randn(parameter.shape) / 10)
    report = pruner.finalize(output)
    assert sum(layer.encoding == "sparse" for layer in report.layers) == 4
    assert report.bytes_after < report.bytes_before / 2.5
    again = to_module(output)
    for key, mask in masks_of(module).items():
        np.testing.assert_array_equal(masks_of(again)[key], mask)
        wanted = module.weight(key).detach().half().float()
        assert torch.equal(again.get_parameter(key).detach(), wanted)
    for key, parameter in module.named_parameters():
        if key not in masks_of(module):
            assert torch.equal(again.get_parameter(key), parameter.half().float())
    inputs, _ = truth(name)
    interpreter = mlpass.Interpreter(output)
    inputs = {feature.name: inputs[feature.name] for feature in interpreter.inputs}
    for key, made in module(**inputs).items():
        predicted = interpreter.predict(inputs)[key]
        array = np.asarray(list(predicted.values()) if isinstance(predicted, dict) else predicted)
        made = made.detach().numpy().reshape(array.shape)
        np.testing.assert_allclose(made, array, atol=5e-3 * abs(array).max())


def test_shared_weights_are_written_for_every_function(tmp_path):
    path, output = FIXTURES / "multifunction_lm.mlpackage", tmp_path / "out.mlpackage"
    module, pruner = start(Percentile(0.6), ConstantSparsity(1), path)
    pruner.step()
    report = pruner.finalize(output)
    assert report.bytes_after < 0.75 * report.bytes_before
    module = to_module(path, function_name="short")
    again = to_module(output, function_name="short")
    assert masks_of(again) and not masks_of(module)


def test_untouched_weights_stay_as_they_were(tmp_path):
    _, pruner = start(None)
    pruner.finalize(tmp_path / "out.mlpackage")
    for file in DIGITS.rglob("*"):
        if file.is_file():
            assert (
                tmp_path / "out.mlpackage" / file.relative_to(DIGITS)
            ).read_bytes() == file.read_bytes()


def test_training_may_go_on_after_finalize(tmp_path):
    module, pruner = start(Percentile(0.5), PolynomialDecay([1, 4]))
    optimizer = train(module, pruner, 2)
    pruner.finalize(tmp_path / "early.mlpackage")
    train(module, pruner, 2, 2, optimizer)
    report = pruner.finalize(tmp_path / "late.mlpackage")
    assert report.sparsity > mlpass.inspect(tmp_path / "early.mlpackage").sparsity
    with pytest.raises(OutputExistsError, match=r"late.mlpackage: already exists; pass force=True"):
        pruner.finalize(tmp_path / "late.mlpackage")
    pruner.finalize(tmp_path / "late.mlpackage", force=True)


def test_a_sparse_model_keeps_its_zeros_and_trains_the_rest(tmp_path):
    sparse = tmp_path / "sparse.mlpackage"
    mlpass.prune(DIGITS, sparse, NM(2, 4))
    for config in (None, NM(2, 4), Percentile(0.2), {"op_type_configs": {"conv": None}}):
        module, pruner = start(config, ConstantSparsity(1), sparse)
        first = masks_of(module)
        assert len(first) == 4
        train(module, pruner, 3)
        for name, mask in masks_of(module).items():
            np.testing.assert_array_equal(mask, first[name])
            weight = module.weight(name).detach().numpy()
            assert not weight[~mask].any()
        report = pruner.finalize(tmp_path / "out.mlpackage", force=True)
        assert [layer.encoding for layer in report.layers].count("sparse") == 4
        again = to_module(tmp_path / "out.mlpackage")
        for name, mask in first.items():
            np.testing.assert_array_equal(masks_of(again)[name], mask)
            assert not torch.equal(again.get_parameter(name), to_module(sparse).get_parameter(name))


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("name", ["basic_pitch", "multifunction_lm", "branches"])
def test_sparse_weights_of_any_opset_are_opened_and_written_back(tmp_path, name):
    sparse, output = tmp_path / "sparse.mlpackage", tmp_path / "out.mlpackage"
    pruned = mlpass.prune(FIXTURES / f"{name}.mlpackage", sparse, Percentile(0.5))
    module, pruner = start(None, path=sparse)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    report = pruner.finalize(output)
    for before, after in zip(pruned.layers, report.layers, strict=True):
        assert (after.encoding, after.zeros) == (before.encoding, before.zeros)
    again = to_module(output)
    for key, mask in masks_of(module).items():
        np.testing.assert_array_equal(masks_of(again)[key], mask)
        torch.testing.assert_close(again.weight(key), module.weight(key), rtol=1e-3, atol=1e-6)


def test_a_sparse_model_may_become_sparser(tmp_path):
    sparse = tmp_path / "sparse.mlpackage"
    mlpass.prune(DIGITS, sparse, Percentile(0.5))
    module, pruner = start(Percentile(0.8), ConstantSparsity(1), sparse)
    first = masks_of(module)
    pruner.step()
    for name, mask in masks_of(module).items():
        assert not (mask & ~first[name]).any()
        assert (~mask).sum() == int(0.8 * mask.size)


def test_zeros_of_a_dense_model_may_be_kept(tmp_path):
    module = to_module(DIGITS)
    name = by_rank(module, 2)[0]
    with torch.no_grad():
        module.get_parameter(name)[0] = 0
    dense = tmp_path / "dense.mlpackage"
    pruner = MagnitudePruner(module)
    pruner.prepare()
    pruner.finalize(dense)
    module, pruner = start(None, path=dense)
    train(module, pruner, 2)
    weight = module.weight(name)
    assert not weight[0].any() and weight[1:].all()


def test_weights_too_large_for_their_type_are_refused(tmp_path):
    module, pruner = start(None)
    name = by_rank(module, 2)[1]
    with torch.no_grad():
        module.get_parameter(name)[0] = 70000
    text = rf"'{name}': holds 70000, which does not fit fp16: train with a lower rate"
    with pytest.raises(ExecutionError, match=text):
        pruner.finalize(tmp_path / "out.mlpackage")
    assert not list(tmp_path.iterdir())


def test_a_model_that_changed_since_is_refused(tmp_path):
    module, pruner = start(Percentile(0.5))
    module.source = FIXTURES / "branches.mlpackage"
    with pytest.raises(ModelFormatError, match="has no weight 'var_0_0_weight_to_fp16' of shape"):
        pruner.finalize(tmp_path / "out.mlpackage")
