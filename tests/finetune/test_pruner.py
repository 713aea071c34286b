"""MagnitudePruner: its course, and where it goes on."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.utils import prune as torch_prune

import mlpass
from mlpass import NM, Block, Channel, Config, Kernel, Percentile, Threshold
from mlpass.errors import (
    ConfigError,
    ExecutionError,
)
from mlpass.finetune import ConstantSparsity, MagnitudePruner, PolynomialDecay, to_module
from tests.finetune.networks import FIXTURES, by_rank, layers, save_layers
from tests.finetune.training import DIGITS, masks_of, start, train


@pytest.fixture(scope="module")
def all_layers(tmp_path_factory):
    return save_layers(layers(), tmp_path_factory.mktemp("layers") / "layers.mlpackage")


def test_the_mask_multiplies_the_weight_and_its_gradient():
    module, _ = start(Percentile(0.5), initial_sparsity=0.5)
    name, mask = next(iter(masks_of(module).items()))
    before = module.get_parameter(name).detach().clone()
    x = torch.randn(2, 1, 28, 28)
    made = module(image=x)["logits"]
    made.square().sum().backward()
    gradient = module.get_parameter(name).grad
    assert gradient is not None and not gradient[~torch.from_numpy(mask)].any()
    assert gradient[torch.from_numpy(mask)].any()
    assert (before[~torch.from_numpy(mask)] != 0).all()  # what is pruned is still there
    with torch.no_grad():
        module.get_parameter(name).mul_(torch.from_numpy(mask))
    torch.testing.assert_close(module(image=x)["logits"], made)


def test_what_is_pruned_may_come_back_unless_it_is_frozen():
    for frozen in (False, True):
        module, pruner = start(
            Percentile(0.5), PolynomialDecay([1, 2]), frozen=frozen, initial_sparsity=0.3
        )
        name, first = next(iter(masks_of(module).items()))
        with torch.no_grad():
            module.get_parameter(name)[~torch.from_numpy(first)] += 1
        pruner.step()
        pruner.step()
        second = masks_of(module)[name]
        assert np.count_nonzero(~second) == second.size // 2
        assert bool((second & ~first).any()) == (not frozen)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize(
    ("mode", "sparsity"),
    [
        (Percentile(0.7), 0.7),
        (Percentile(0.7, scope="row"), 0.7),
        (NM(3, 4), 0.75),
        (NM(1, 2, dim=0), 0.5),
        (Block(0.6, 4), 0.6),
        (Kernel(0.6), 0.6),
        (Channel(0.5), 0.5),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_every_mode_reaches_its_target_and_keeps_its_shape(all_layers, mode, sparsity, frozen):
    config = Config(op_name_configs={"*": mode}, weight_threshold=0)  # they all make outputs
    module, pruner = start(config, PolynomialDecay([1, 2, 4, 6]), all_layers, frozen=frozen)
    sparsities = []
    for _ in range(7):
        for parameter in module.parameters():
            with torch.no_grad():
                parameter.add_(torch.randn(parameter.shape) / 50)
        pruner.step()
        sparsities.append([float((~mask).mean()) for mask in masks_of(module).values()])
    for before, after in pairwise(sparsities):
        assert all(first <= second for first, second in zip(before, after, strict=True))
    for mask in masks_of(module).values():
        assert float((~mask).mean()) == pytest.approx(sparsity, abs=1.01 / 16)
    if not frozen:  # a mask as the mode itself makes it, at its full target
        module, pruner = start(config, ConstantSparsity(0), all_layers)
        pruner.step()
        report = mlpass.prune(
            all_layers, all_layers.with_name("pruned.mlpackage"), config, force=True
        )
        zeros = {layer.name: layer.zeros for layer in report.layers if layer.mode}
        ours = {name: int((~mask).sum()) for name, mask in masks_of(module).items()}
        assert ours == zeros


def test_a_global_scope_ranks_all_weights_together(all_layers):
    config = Config(global_config=Percentile(0.6, scope="global"), weight_threshold=0)
    module, pruner = start(config, ConstantSparsity(0), all_layers)
    pruner.step()
    modules = layers()
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in modules.values()], torch_prune.L1Unstructured, amount=0.6
    )
    for name, layer in modules.items():
        assert torch.equal(module.mask_of(f"{name}_weight"), layer.weight_mask.bool()), name
    assert len({float(mask.mean()) for mask in masks_of(module).values()}) > 1


def test_report_says_what_is_pruned_and_what_is_skipped(all_layers):
    config = Config(
        global_config=Kernel(0.5), op_name_configs={"grouped": None}, weight_threshold=700
    )
    _, pruner = start(config, ConstantSparsity(1), all_layers)
    before = {layer.name: layer for layer in pruner.report().layers}
    assert all(layer.zeros == 0 for layer in before.values())
    pruner.step()
    report = pruner.report()
    now = {layer.name: layer for layer in report.layers}
    assert now["first_weight"].mode == "Kernel(0.5)"
    assert now["first_weight"].method == "magnitude"
    assert now["first_weight"].sparsity == pytest.approx(0.5)
    assert now["head_weight"].skipped == "its 512 elements are no more than weight_threshold 700"
    assert now["grouped_weight"].skipped == "op_name_configs['grouped'] is None"
    assert report.output is None and report.to_dict()["layers"]


def test_a_mode_that_does_not_fit_is_a_skip(all_layers):
    config = Config(global_config=Kernel(0.5), weight_threshold=0)
    _, pruner = start(config, path=all_layers)
    skipped = {layer.name: layer.skipped for layer in pruner.report().layers}
    assert skipped["head_weight"] == "it has no spatial kernels" and not skipped["row_weight"]


def test_weights_of_other_functions_are_skipped(tmp_path):
    path = FIXTURES / "digits_pipeline.mlpackage"
    module, pruner = start(Percentile(0.5), path=path)
    del module.sites[by_rank(module, 2)[-1]]
    pruner = MagnitudePruner(module, Percentile(0.5))
    pruner.prepare()
    reasons = [layer.skipped for layer in pruner.report().layers]
    assert reasons[-1] == "the function that is trained does not read it"


def test_resuming_is_exact(tmp_path):
    schedule, config = PolynomialDecay([1, 3, 5, 7]), Percentile(0.75)
    straight, pruner = start(config, schedule)
    train(straight, pruner, 8)

    module, pruner = start(config, schedule)
    optimizer = train(module, pruner, 4)
    saved = {
        "module": module.state_dict(),
        "pruner": pruner.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(saved, tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    module, pruner = start(config, schedule)
    module.load_state_dict(saved["module"])
    pruner.load_state_dict(saved["pruner"])
    optimizer = torch.optim.SGD(module.parameters(), 1e-3, momentum=0.9)
    optimizer.load_state_dict(saved["optimizer"])
    train(module, pruner, 4, 4, optimizer)
    for name, value in straight.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


def test_a_copy_is_a_module_of_its_own():
    module, pruner = start(Percentile(0.75), ConstantSparsity(1))
    train(module, pruner, 2)
    twin = copy.deepcopy(module.eval())
    image = torch.randn(2, 1, 28, 28)
    assert torch.equal(twin(image=image)["logits"], module(image=image)["logits"])
    assert not twin.training and twin.state_dict().keys() == module.state_dict().keys()
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    train(module, pruner, 1)
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())


def test_a_state_of_another_config_is_refused():
    _, pruner = start(Percentile(0.5))
    _, other = start({"op_type_configs": {"linear": Percentile(0.5)}})
    with pytest.raises(
        ConfigError,
        match="only one of the two prunes 'var_0_3_weight_to_fp16'",
    ):
        pruner.load_state_dict(other.state_dict())


@pytest.mark.parametrize("call", ["step", "report", "finalize", "load_state_dict"])
def test_nothing_goes_before_prepare(call, tmp_path):
    pruner = MagnitudePruner(to_module(DIGITS), Percentile(0.5))
    arguments = {"finalize": [tmp_path / "o.mlpackage"], "load_state_dict": [{}]}
    with pytest.raises(ConfigError, match=rf"{call}: call prepare\(\) first"):
        getattr(pruner, call)(*arguments.get(call, []))


def test_prepare_twice_is_once():
    module, pruner = start(Percentile(0.5), ConstantSparsity(1))
    pruner.step()
    masks = masks_of(module)
    assert pruner.prepare() is module
    np.testing.assert_equal(masks_of(module), masks)


def test_wrong_options_are_refused():
    module = to_module(DIGITS)
    with pytest.raises(ConfigError, match="module: must be one that to_module made. Got Linear."):
        MagnitudePruner(torch.nn.Linear(2, 2), Percentile(0.5))
    for value in (-0.1, 1.1, True, "0.5"):
        with pytest.raises(ConfigError, match=r"initial_sparsity: must be a number in \[0, 1\]"):
            MagnitudePruner(module, Percentile(0.5), initial_sparsity=value)
    with pytest.raises(ConfigError, match=r"schedule: must be a ConstantSparsity, .* Got \[1, 2\]"):
        MagnitudePruner(module, Percentile(0.5), [1, 2])
    pruner = MagnitudePruner(module, Threshold(0.1))
    with pytest.raises(
        ConfigError, match=r"Threshold\(0.1\) has no target sparsity for a schedule"
    ):
        pruner.prepare()
    with pytest.raises(ConfigError, match="op_name_configs: no weight or op is named 'nobody'"):
        MagnitudePruner(module, {"op_name_configs": {"nobody": NM(2, 4)}}).prepare()


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    module, pruner = start(Percentile(0.5), ConstantSparsity(1))
    name = by_rank(module, 2)[1]
    with torch.no_grad():
        module.get_parameter(name)[0] = float("nan")
    with pytest.raises(ExecutionError, match=rf"'{name}': .*NaN or inf.*: train with a lower rate"):
        pruner.step()
