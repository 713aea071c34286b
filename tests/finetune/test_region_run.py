"""A module tuned in place: whatever the target, the memory and what trains."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from mlpass.finetune import owning, to_module, to_stored_module
from mlpass.finetune.region_run import tune_module
from tests.finetune.tuned import OPTIONS, SAMPLES, TINY, pruned

_ = pruned  # a fixture


@pytest.mark.slow
def test_the_best_target_is_none_worse_than_any(pruned):
    """Of the first region that trains, whose inputs are the same whatever it aims at."""
    found = {}
    for target in ("dense", "mix", "best"):
        options = replace(OPTIONS, epochs=1, target=target)
        module = to_stored_module(pruned)
        report = tune_module(module, to_module(TINY), SAMPLES[:5], options)
        (line,) = (note for note in report.notes if note.startswith("region 2,"))
        found[target] = float(re.search(r"-> (\S+),", line)[1]), line
    assert found["best"][0] <= min(found["dense"][0], found["mix"][0])
    assert " towards " in found["best"][1]
    assert " towards " not in found["mix"][1]


def test_biases_stay_where_that_is_asked_for(pruned):
    module, first = to_stored_module(pruned), to_stored_module(pruned)
    done = tune_module(module, to_module(TINY), SAMPLES, replace(OPTIONS, weights_only=True))
    assert done.trained
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, first.get_parameter(name)) == (name not in done.trained)
        assert not (module.is_beside(name) and name in done.trained)


@pytest.mark.slow
def test_what_spills_makes_no_difference(pruned, monkeypatch):
    modules = [to_stored_module(pruned) for _ in range(2)]
    few = []
    made = owning.cut
    monkeypatch.setattr(owning, "cut", lambda plan, sizes, _, *rest: made(plan, sizes, 1, *rest))
    for module, budget in zip(modules, (1 << 30, 1), strict=True):
        few.append(tune_module(module, to_module(TINY), SAMPLES, OPTIONS, None, budget))
    assert few[0] == few[1]
    for name in few[0].trained:
        assert torch.equal(*(module.get_parameter(name) for module in modules))


def test_a_loss_that_is_not_finite_leaves_a_region_as_it_was(pruned):
    module = to_stored_module(pruned)
    (name,) = (name for name in module.floats if "layers_1_query_weight" in name)
    with torch.no_grad():
        module.get_parameter(name).fill_(float("nan"))
    done = tune_module(module, to_module(TINY), SAMPLES, OPTIONS)
    assert any("loss nan -> nan, as it was" in note for note in done.notes)
    assert name not in done.trained
