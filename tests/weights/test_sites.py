"""Which constants are weight sites, who reads them, and which only seem so."""

from __future__ import annotations

from mlpass.program.mlpackage import Package
from mlpass.weights.sites import find_sites


def sites_of(fixtures, name):
    with Package(fixtures / f"{name}.mlpackage") as package:
        return {site.name: site for site in find_sites(package.programs)}


def test_weights_in_nested_blocks_and_of_every_kind(fixtures):
    sites = sites_of(fixtures, "branches")
    readers = {name: f"{s.uses[0].op.type}.{s.uses[0].parameter}" for name, s in sites.items()}
    assert readers == {
        "then_linear_weight_0": "linear.weight",
        "else_matmul_y_0": "matmul.y",
        "loop_linear_weight_1": "linear.weight",
        "mixing_matmul_x_0": "matmul.x",
        "gru_weight_ih_0": "gru.weight_ih",
        "gru_weight_hh_0": "gru.weight_hh",
        "rnn_weight_ih_0": "rnn.weight_ih",
        "rnn_weight_hh_0": "rnn.weight_hh",
        "einsum_values1_0": "einsum.values",
        "grown_weight_0": "conv_transpose.weight",
    }
    assert sites["einsum_values1_0"].uses[0].position == 1
    assert "equation" in sites["einsum_values1_0"].uses[0].settings
    assert not any(site.refusal for site in sites.values())


def test_a_tied_weight_is_one_site_with_all_its_uses(fixtures):
    site = sites_of(fixtures, "tiny_lm")["embedding_weight_to_fp16"]
    assert [use.op.type for use in site.uses] == ["gather", "linear"]
    assert len(site.makers) == 1


def test_functions_that_share_storage_share_sites(fixtures):
    sites = sites_of(fixtures, "multifunction_lm")
    assert len(sites) == 22
    assert all(len(site.makers) == 2 for site in sites.values())


def test_equal_names_in_parts_of_a_pipeline_are_told_apart(fixtures):
    assert {name for name in sites_of(fixtures, "digits_pipeline") if "/" in name} == {
        "0/main/var_3_weight_to_fp16",
        "1/main/var_3_weight_to_fp16",
    }


def test_lstm_matrices_are_sites_and_its_biases_and_states_are_not(fixtures):
    readers = {
        f"{use.op.type}.{use.parameter}"
        for site in sites_of(fixtures, "silero_vad").values()
        for use in site.uses
    }
    assert readers == {"conv.weight", "lstm.weight_ih", "lstm.weight_hh"}


def test_compressed_weights_say_by_what(fixtures):
    sites = sites_of(fixtures, "palettized_digits")
    compressed = [site for site in sites.values() if site.constant is None]
    assert len(compressed) == 4
    assert {site.refusal for site in compressed} == {
        "it is already compressed, by constexpr_lut_to_dense"
    }
    assert {(site.dtype, len(site.parts)) for site in compressed} == {("fp16", 1)}
