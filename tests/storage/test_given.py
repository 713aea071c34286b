"""A storage in every form that it may be given in."""

from __future__ import annotations

import pytest

from mlpass import Palette, Plain, Quantized
from mlpass.errors import ConfigError
from mlpass.registries import STORAGES
from mlpass.storage.given import as_storage, every_storage_word, take_storage


@pytest.mark.parametrize(
    ("given", "storage"),
    [
        (None, None),
        (Quantized("int4"), Quantized("int4")),
        ("int8", Quantized("int8")),
        ("UINT4", Quantized("uint4")),
        ("quantize", Quantized()),
        ("palettize", Palette()),
        ("plain", Plain()),
        ({"quantize": "int4", "block_size": 32}, Quantized("int4", 32)),
        ({"quantize": "int4", "quantize_block_size": "32"}, Quantized("int4", 32)),
        ({"palettize": 4, "group_size": 8}, Palette(bits=4, group_size=8)),
        ({"palettize": "4", "table": "normal_float"}, Palette(table="normal_float")),
        ({"palettize": {"bits": 4, "group_size": "8"}}, Palette(bits=4, group_size=8)),
        ({"palettize": Palette(group_size=8)}, Palette(group_size=8)),
        ({"quantize": None, "palettize": 4, "table": None}, Palette()),
        ({"storage": "int8"}, Quantized("int8")),
    ],
    ids=str,
)
def test_every_form(given, storage):
    assert as_storage(given) == storage


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (4, "storage: must be a storage such as Palette.* Got 4"),
        ("int88", "storage: must be one of int8, .*lossless. Got 'int88', did you mean 'int8'"),
        ({}, "storage: give one of quantize, palettize. Got {}"),
        ({"quantize": "int8", "tabel": "x"}, "storage: unknown option 'tabel'"),
        ({"palettize": 4, "tabel": "x"}, "storage: unknown option 'tabel', did you mean 'table'"),
        ({"palettize": 4, "bits": 4}, "storage: unknown option 'bits'"),
        ({"quantize": "int5"}, "dtype: must be one of int8, int4, uint8, uint4. Got 'int5'"),
        ({"palettize": "x"}, "bits: must be an int. Got 'x'"),
        ({"palettize": True}, "bits: must be .* Got True"),
        ({"quantize": Palette()}, r"dtype: must be one of .* Got Palette\("),
        ({"palettize": {"bit": 4}}, "bit: does not go with Palette"),
        ({"group_size": 8}, "group_size: needs palettize"),
    ],
    ids=str,
)
def test_what_stands_for_no_storage(given, text):
    with pytest.raises(ConfigError, match=text):
        as_storage(given)


def test_what_is_taken_of_options_is_gone():
    options = {"target_sparsity": 0.5, "block_size": 2, "quantize": "int4", "table": None}
    assert take_storage(options) == Quantized("int4")
    assert options == {"target_sparsity": 0.5, "block_size": 2}
    assert take_storage(options) is None


def test_words_are_those_that_no_mode_has():
    words = every_storage_word()
    assert words[:3] == ["storage", "quantize", "palettize"]
    assert {"quantize_block_size", "group_size", "palettize_group_size", "table"} <= {*words}
    assert not {"block_size", "dtype", "bits", "plain"} & {*words}


@pytest.mark.parametrize(
    ("storage", "text"),
    [
        (Quantized("int4"), "Quantized(int4)"),
        (Quantized("int8", 32), "Quantized(int8, block_size=32)"),
        (Palette(4, 16, "normal_float"), "Palette(4, group_size=16, table=normal_float)"),
        (Plain(), "Plain()"),
    ],
)
def test_texts(storage, text):
    assert str(storage) == text
    assert STORAGES.name_of(storage) in STORAGES.homes
