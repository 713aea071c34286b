"""Masks and training, against coremltools' MagnitudePruner on the torch network itself."""

import coremltools.optimize.torch.pruning as peer
import numpy as np
import pytest
import torch
from torch.nn import functional

from mlpass import NM, Block, Channel, Kernel, Percentile
from mlpass.finetune import ConstantSparsity, MagnitudePruner, PolynomialDecay, to_module
from tests.finetune.networks import FIXTURES, by_rank, digits, images, layers, save_layers

RISING = {"update_steps": [2, 3, 5, 8, 9]}
EVERY, CONVOLUTIONS = ("first", "grouped", "row", "head"), ("first", "grouped", "row")
# mode, coremltools' options, and the layers where both do the same: coremltools prunes linear
# layers without structure where it is asked for kernels or channels.
MODES = [
    (Percentile(0.6), {"target_sparsity": 0.6}, EVERY),
    (Percentile(0.75), {"target_sparsity": 0.75}, EVERY),
    (Percentile(0.97), {"target_sparsity": 0.97}, EVERY),
    (Block(0.6, 2), {"target_sparsity": 0.6, "block_size": 2}, EVERY),
    (Block(0.75, 4), {"target_sparsity": 0.75, "block_size": 4}, EVERY),
    (NM(2, 4), {"n_m_ratio": (2, 4)}, EVERY),
    (NM(3, 4), {"n_m_ratio": (3, 4)}, EVERY),
    (NM(7, 8), {"n_m_ratio": (7, 8)}, EVERY),
    (NM(1, 4, dim=0), {"n_m_ratio": (1, 4), "dim": 0}, EVERY),
    (NM(5, 8, dim=0), {"n_m_ratio": (5, 8), "dim": 0}, EVERY),
    (Kernel(0.6), {"target_sparsity": 0.6, "granularity": "per_kernel"}, CONVOLUTIONS),
    (Channel(0.6), {"target_sparsity": 0.6, "granularity": "per_channel"}, CONVOLUTIONS),
]
SCHEDULES = [
    (PolynomialDecay(**RISING), RISING),
    (PolynomialDecay([1, 4, 7], power=1), {"update_steps": [1, 4, 7], "power": 1}),
    (ConstantSparsity(3), {"begin_step": 3}),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    modules = layers()
    return modules, save_layers(modules, tmp_path_factory.mktemp("peer") / "layers.mlpackage")


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize(("mode", "options", "compared"), MODES, ids=lambda v: str(v)[:30])
@pytest.mark.parametrize(("ours", "theirs"), SCHEDULES)
@pytest.mark.parametrize("initial", [0.0, 0.25])
def test_masks_are_coremltools(package, mode, options, compared, ours, theirs, initial):
    source, path = package
    module = to_module(path)
    named = {"op_name_configs": {"*": mode}, "weight_threshold": 0}  # they all make outputs
    pruner = MagnitudePruner(module, named, ours, initial_sparsity=initial)
    pruner.prepare()
    settings = {**options, "scheduler": theirs, "initial_sparsity": initial}
    config = peer.MagnitudePrunerConfig.from_dict({"global_config": settings})
    torch_pruner = peer.MagnitudePruner(source, config)
    torch_modules = torch_pruner.prepare()
    generator = torch.Generator().manual_seed(1)
    seen = set()
    for step in range(12):
        for name in compared:
            mask = torch_modules[name].weight_mask.bool().expand_as(source[name].weight)
            assert torch.equal(module.mask_of(f"{name}_weight"), mask), (step, name)
            seen.add(float(mask.float().mean()))
        for name in source:  # a step of training, the same to the bit
            change = torch.randn(source[name].weight.shape, generator=generator) / 20
            with torch.no_grad():
                module.get_parameter(f"{name}_weight").add_(change)
                torch_modules[name].weight_orig.add_(change)
        pruner.step()
        torch_pruner.step()
    assert len(seen) > 1 or initial == options.get("target_sparsity", 0.25)


def test_training_is_coremltools(tmp_path):
    path = FIXTURES / "digits_ios15.mlpackage"
    module = to_module(path)
    network = digits(module)
    pruner = MagnitudePruner(
        module,
        {"global_config": Percentile(0.75), "weight_threshold": 2048},
        PolynomialDecay([1, 3, 5, 7]),
    )
    pruner.prepare()
    pruned = {"target_sparsity": 0.75, "scheduler": {"update_steps": [1, 3, 5, 7]}}
    small = {"module_name_configs": {"0": None}, "global_config": pruned}
    torch_pruner = peer.MagnitudePruner(network, peer.MagnitudePrunerConfig.from_dict(small))
    network = torch_pruner.prepare()
    ours = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
    theirs = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    pixels, labels = images(80)
    for step in range(10):
        batch, wanted = pixels[8 * step : 8 * step + 8], labels[8 * step : 8 * step + 8]
        losses = []
        for optimizer, outputs, one in (
            (ours, module(image=batch)["logits"], pruner),
            (theirs, network(batch), torch_pruner),
        ):
            loss = functional.cross_entropy(outputs, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            one.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-4), step
    masks = [layer.weight_mask.bool() for layer in network if hasattr(layer, "weight_mask")]
    names = [name for name in by_rank(module, 2) if module.mask_of(name) is not None]
    for name, mask in zip(names, masks, strict=True):
        agree = (module.mask_of(name) == mask).float().mean()
        assert agree > 0.9999, name  # sums in another order may turn a rank


def test_ten_steps_are_those_of_the_source_network():
    module = to_module(FIXTURES / "digits_ios15.mlpackage")
    network = digits(module)
    ours = torch.optim.Adam(module.parameters(), 1e-3)
    theirs = torch.optim.Adam(network.parameters(), 1e-3)
    pixels, labels = images(80)
    losses = []
    for step in range(10):
        batch, wanted = pixels[8 * step : 8 * step + 8], labels[8 * step : 8 * step + 8]
        for optimizer, outputs in ((ours, module(image=batch)["logits"]), (theirs, network(batch))):
            loss = functional.cross_entropy(outputs, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    np.testing.assert_allclose(losses[::2], losses[1::2], rtol=1e-3, atol=1e-4)
    assert losses[-1] < losses[0] / 2
