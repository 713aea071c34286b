"""Who reads a parameter, and which window of regions trains it."""

from __future__ import annotations

import pytest

from mlpass.finetune import Regions, to_stored_module
from mlpass.finetune.owning import owned_by_windows, readers_of, regions_of, weights_of
from tests.finetune.networks import FIXTURES

SMALL = 1  # byte: the program is cut as often as it can be


@pytest.fixture(scope="module")
def module():
    return to_stored_module(FIXTURES / "tiny_lm.mlpackage")


def test_a_tied_table_is_read_by_the_first_region_and_the_last(module):
    cuts = regions_of(module, Regions(), SMALL)
    readers = readers_of(module, cuts)
    assert readers.keys() == module.floats.keys()
    assert len(cuts[0]) > 2
    assert any({0, len(cuts[0]) - 1} <= numbers for numbers in readers.values())
    assert module.read_as(set()) == set()


@pytest.mark.parametrize("window", [1, 2])
def test_a_window_trains_what_only_it_reads(module, window):
    options = Regions(window=window)
    cuts = regions_of(module, options, SMALL)
    readers = readers_of(module, cuts)
    owned = owned_by_windows(module, cuts, readers, options)
    assert len(owned) == len(cuts[0]) - window + 1
    for first, names in enumerate(owned):
        assert all(readers[name] <= set(range(first, first + window)) for name in names)
    assert any(names for names in owned)


def test_weights_have_sizes_and_biases_are_left_out(module):
    (stage,) = module.stages
    sizes = weights_of(module, stage)
    weights = [name for name in module.floats if not module.is_beside(name)]
    assert sum(sizes.values()) == sum(module.floats[name].size for name in weights)
