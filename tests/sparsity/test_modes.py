"""The laws of the modes, and coremltools' own masks where the two must agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from coremltools.optimize.coreml._quantization_passes import prune_weights as peer
from coremltools.optimize.torch.pruning._utils import magnitude_ranked_mask
from hypothesis import example, given
from hypothesis import strategies as st

from mlpass.errors import ConfigError, NotApplicable
from mlpass.registries import MODES
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Percentile, Threshold
from mlpass.weights.ops.convolutions import conv_layout
from mlpass.weights.ops.record import layout_of

SHAPES = [(24, 36), (16, 24, 5), (16, 12, 3, 3), (8, 12, 2, 3, 2)]


def layout_for(shape):
    return matrix_layout(*shape) if len(shape) == 2 else conv_layout(shape, 1)


def tie_free(shape, dtype=np.float32, seed=0):
    """A weight whose magnitudes are all different, signs mixed."""
    rng = np.random.default_rng(seed)
    values = rng.permutation(math.prod(shape)).astype(np.float64) + 1
    return (values * rng.choice([-1, 1], values.size) / 64).reshape(shape).astype(dtype)


def pruned(weight, mode, layout=None):
    keep = mode.keep(np.abs(weight), layout or layout_for(weight.shape))
    return np.where(keep, weight, 0)


ALL_MODES = [
    Threshold(2.0, 0.0),
    Percentile(0.5),
    NM(2, 4),
    NM(1, 3, dim=0),
    Block(0.5, 4),
    Block(0.3, 3, dim=1),
    Kernel(0.5),
    Channel(0.25),
]


@pytest.mark.parametrize(
    ("mode", "shape"),
    [(m, s) for m in ALL_MODES for s in SHAPES if not (isinstance(m, Kernel) and len(s) == 2)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_pruning_twice_changes_nothing(mode, shape, dtype):
    weight = (np.random.default_rng(0).standard_normal(shape) * 3).astype(dtype)
    once = pruned(weight, mode)
    assert np.array_equal(pruned(once, mode), once)
    assert np.count_nonzero(once) < weight.size


@given(st.floats(0, 1), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_percentile_zeroes_exactly_the_floor(share, size, seed):
    weight = np.random.default_rng(seed).integers(-3, 4, (1, size)).astype(np.float16)
    weight[weight == 0] = 1
    keep = Percentile(share).keep(np.abs(weight))
    assert np.count_nonzero(~keep) == math.floor(share * size)
    if 0 < keep.sum() < size:
        assert np.abs(weight[~keep]).max() <= np.abs(weight[keep]).min()


def test_percentile_counts_existing_zeros_and_breaks_ties_by_position():
    weight = np.array([[0.0, 5.0, -1.0, 1.0, 1.0, -1.0]], np.float32)
    keep = Percentile(0.5).keep(np.abs(weight))
    assert keep.tolist() == [[False, True, False, False, True, True]]


def test_an_all_equal_tensor_keeps_its_share_where_coremltools_loses_it_all():
    weight = np.ones((10, 100), np.float32)
    assert np.count_nonzero(pruned(weight, Percentile(0.1))) == 900
    theirs = peer.decompress(peer.compress_by_magnitude(weight, 0.1))
    assert np.count_nonzero(theirs) == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_large_fp16_weights_are_pruned_where_coremltools_overflows():
    weight = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float16)
    assert np.count_nonzero(pruned(weight, Percentile(0.5)) == 0) == 45_000
    theirs = peer.decompress(peer.compress_by_magnitude(weight, 0.5))
    if np.lib.NumpyVersion(np.__version__) < "2.4.0":
        assert np.count_nonzero(theirs == 0) < 1000


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 0.9])
def test_percentile_agrees_with_coremltools_but_for_one_element(shape, share):
    weight = tie_free(shape)
    theirs = peer.decompress(peer.compress_by_magnitude(weight, share))
    assert np.count_nonzero(pruned(weight, Percentile(share)) != theirs) <= 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threshold", [0.5, 3.0, 1e6])
def test_threshold_agrees_with_coremltools(shape, threshold):
    weight = tie_free(shape)
    theirs = peer.decompress(peer.compress_by_threshold(weight, threshold, 0.0))
    assert np.array_equal(pruned(weight, Threshold(threshold, 0.0)), theirs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("n", "m", "dim"), [(2, 4, 1), (1, 4, 0), (3, 6, 1), (1, 2, 0), (4, 4, 1)])
def test_nm_agrees_with_coremltools_on_full_groups(shape, n, m, dim):
    weight = tie_free(shape)
    theirs = peer.decompress(peer.compress_by_nm_sparsity(weight, (n, m), dim))
    assert np.array_equal(pruned(weight, NM(n, m, dim)), theirs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("size", "dim"), [(2, 0), (4, 0), (3, 1), (6, 1)])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_block_agrees_with_coremltools_on_full_groups(shape, size, dim, share):
    weight = tie_free(shape)
    theirs = peer.decompress(peer.compress_by_magnitude(weight, share, size, dim))
    assert np.array_equal(pruned(weight, Block(share, size, dim)), theirs)


@pytest.mark.parametrize(
    ("mode", "granularity"), [(Kernel, "per_kernel"), (Channel, "per_channel")]
)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_kernel_and_channel_agree_with_coremltools_masks(mode, granularity, shape, share):
    weight = tie_free(shape)
    theirs = magnitude_ranked_mask(torch.from_numpy(weight), share, 1, granularity)
    theirs = np.broadcast_to(theirs.numpy(), shape)
    assert np.array_equal(mode(share).keep(np.abs(weight), layout_for(shape)), theirs)


def test_block_rounds_its_count_down_where_coremltools_passes_the_target():
    weight = tie_free((20, 1))  # 10 blocks of 2; a third of them is 3.3
    assert np.count_nonzero(pruned(weight, Block(0.33, 2)) == 0) == 6
    theirs = peer.decompress(peer.compress_by_magnitude(weight, 0.33, 2, 0))
    assert np.count_nonzero(theirs == 0) == 8


def test_block_norms_do_not_overflow_in_fp16():
    weight = np.full((8, 16), 300.0, np.float16)
    weight[:4] = 600.0  # 300^2 and 600^2 are both inf in fp16
    kept = pruned(weight, Block(0.5, 4))
    assert np.all(kept[:4] == 600) and np.all(kept[4:] == 0)


def test_block_norms_do_not_vanish_in_fp16():
    weight = np.full((8, 16), 2e-5, np.float16)
    weight[:4] = 1e-5  # squares of both are 0 in fp16
    kept = pruned(weight, Block(0.5, 4))
    assert np.all(kept[:4] == 0) and np.all(kept[4:] != 0)


def test_a_short_last_block_is_ranked_by_its_mean():
    weight = np.ones((10, 1), np.float32)
    weight[8:] = 1.1  # two elements: their norm is lower than a full block's, their mean is not
    assert np.all(pruned(weight, Block(0.7, 4))[8:] != 0)
    theirs = peer.decompress(peer.compress_by_magnitude(weight, 0.7, 4, 0))
    assert not np.any(theirs[8:])


@pytest.mark.parametrize("tail", [0, 1, 2, 3])
@pytest.mark.parametrize("dim", [0, 1])
def test_nm_zeroes_n_of_every_m_and_its_share_of_the_tail(tail, dim):
    channels = 8 + tail
    shape = (5, channels, 3) if dim == 1 else (channels, 5, 3)
    zeros = pruned(tie_free(shape), NM(2, 4, dim)) == 0
    along = np.moveaxis(zeros, 1 if dim == 1 else 0, -1)
    assert np.all(along[..., :8].reshape(*along.shape[:-1], 2, 4).sum(-1) == 2)
    assert np.all(along[..., 8:].sum(-1) == tail * 2 // 4)


@example(300, 0, 77)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_nm_of_any_size_zeroes_the_lowest_of_each_group(m, seed, n):
    n = min(n, m)
    weight = np.random.default_rng(seed).integers(1, 9, (2, 2 * m)).astype(np.float32)
    keep = NM(n, m).keep(weight, matrix_layout(*weight.shape)).reshape(-1, m)
    for row, kept in zip(weight.reshape(-1, m), keep, strict=True):
        wanted = np.ones(m, bool)
        wanted[np.argsort(row, kind="stable")[:n]] = False
        assert np.array_equal(kept, wanted)


def test_nm_of_a_grouped_convolution_runs_within_each_group():
    weight = tie_free((8, 4, 3, 3))
    zeros = pruned(weight, NM(1, 2), conv_layout(weight.shape, 2)) == 0
    assert np.all(zeros.reshape(8, 2, 2, 3, 3).sum(2) == 1)


def test_nm_of_a_transposed_matmul_runs_along_its_inner_axis():
    weight = tie_free((8, 6))
    layout = layout_of("matmul", "y", 0, weight.shape, {})
    zeros = pruned(weight, NM(2, 4), layout) == 0
    assert np.all(zeros.reshape(2, 4, 6).sum(1) == 2)


def test_threshold_compares_with_the_number_itself_not_its_rounding():
    step = np.float16(0.1)  # 0.0999755859375, just below 0.1
    above = np.nextafter(step, np.float16(1))
    keep = Threshold(0.1, 0.0).keep(np.array([[step, above]]))
    assert keep.tolist() == [[False, True]]
    assert Threshold(1e-12, 0.0).keep(np.array([[0.0, 6e-8]], np.float16)).tolist() == [
        [False, True]
    ]
    assert not Threshold(1e9, 0.0).keep(np.array([[65504]], np.float16)).any()


@pytest.mark.parametrize(
    ("mode", "shape", "text"),
    [
        (
            Threshold(0.0),
            (4, 4),
            r"sparsity 0\.0000 would be below minimum_sparsity_percentile 0.5",
        ),
        (NM(2, 4), (8, 3), r"its input channels \(3\) are fewer than m \(4\)"),
        (NM(2, 4, 0), (3, 8), r"its output channels \(3\) are fewer than m \(4\)"),
        (Block(0.5, 4), (3, 8), r"its output channels \(3\) are fewer than block_size \(4\)"),
        (Kernel(0.5), (4, 4), "it has no spatial kernels"),
    ],
    ids=str,
)
def test_modes_that_do_not_apply(mode, shape, text):
    with pytest.raises(NotApplicable, match=text):
        mode.keep(np.ones(shape, np.float32), matrix_layout(*shape))


@pytest.mark.parametrize("mode", [NM(2, 4), Block(0.5, 2), Kernel(0.5), Channel(0.5)], ids=str)
def test_structured_modes_need_a_layout(mode):
    with pytest.raises(NotApplicable, match="needs input and output channels"):
        mode.keep(np.ones((4, 4), np.float32), None)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Percentile(1.5), r"target_sparsity: must be a number in \[0, 1\]. Got 1.5"),
        (lambda: Percentile("half"), r"target_sparsity: must be a number in \[0, 1\]. Got 'half'"),
        (lambda: Percentile(float("nan")), r"target_sparsity: must be a number"),
        (lambda: Percentile(True), r"target_sparsity: must be a number"),
        (lambda: Percentile(0.5, scope="model"), r'scope: must be "weight", "row" or "global"'),
        (lambda: Threshold(-1.0), r"threshold: must be a number of 0 or more. Got -1.0"),
        (lambda: Threshold(0.1, 2), r"minimum_sparsity_percentile: must be a number in \[0, 1\]"),
        (lambda: NM(5, 4), r"n_m_ratio: n \(the number of zeros\) must be an int in \[0, m\]"),
        (lambda: NM(1.0, 4), r"n_m_ratio: n must be an int. Got 1.0"),
        (lambda: NM(-1, 4), r"Got n=-1 with m=4"),
        (lambda: NM(0, 0), r"n_m_ratio: m must be an int of 1 or more. Got 0"),
        (lambda: NM(2, 4, dim=2), r"dim: must be 0 \(output channels\) or 1 \(input channels\)"),
        (lambda: Block(0.5, 1), r"block_size: must be an int of 2 or more. Got 1"),
        (lambda: Block(2, 4), r"target_sparsity: must be a number in \[0, 1\]"),
        (lambda: Block(0.5, 4, dim=3), r"dim: must be 0"),
        (lambda: Kernel(-0.1), r"target_sparsity: must be a number in \[0, 1\]"),
        (lambda: Channel(None), r"target_sparsity: must be a number in \[0, 1\]. Got None"),
    ],
)
def test_wrong_options_say_which_and_why(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_modes_print_as_they_are_written():
    assert [str(mode) for mode in ALL_MODES] == [
        "Threshold(2.0, minimum_sparsity_percentile=0.0)",
        "Percentile(0.5)",
        "NM(2:4)",
        "NM(1:3, dim=0)",
        "Block(0.5, block_size=4)",
        "Block(0.3, block_size=3, dim=1)",
        "Kernel(0.5)",
        "Channel(0.25)",
    ]
    assert str(Percentile(0.5, "global")) == "Percentile(0.5, scope=global)"
    assert {MODES[name].kind for name in MODES} == {type(mode) for mode in ALL_MODES}


@pytest.mark.parametrize("mode", ALL_MODES, ids=str)
def test_the_number_of_threads_changes_nothing(monkeypatch, mode):
    monkeypatch.setattr("mlpass.parallel.SLAB", 500)
    weight = (np.random.default_rng(3).standard_normal((37, 41, 3, 3)) * 4).astype(np.float16)
    masks = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("MLPASS_THREADS", threads)
        masks.append(mode.keep(np.abs(weight), conv_layout(weight.shape, 1)))
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("mode", "target", "half"),
    [
        (Percentile(0.75, "row"), 0.75, Percentile(0.5, "row")),
        (NM(3, 4, 0), 0.75, NM(2, 4, 0)),
        (NM(2, 7), 2 / 7, NM(3, 7)),
        (Block(0.2, 4, 1), 0.2, Block(0.5, 4, 1)),
        (Kernel(0.3), 0.3, Kernel(0.5)),
        (Channel(1.0), 1.0, Channel(0.5)),
    ],
    ids=str,
)
def test_a_mode_tells_its_target_and_goes_to_another(mode, target, half):
    assert mode.target == target
    assert mode.at(0.5) == half
    assert mode.at(mode.target) == mode


def test_a_threshold_has_no_target():
    assert Threshold(0.1).target is None
    with pytest.raises(
        ConfigError, match=r"Threshold\(0.1\) has no target sparsity for a schedule"
    ):
        Threshold(0.1).at(0.5)


def test_only_a_global_percentile_ranks_all_weights_together():
    modes = (Percentile(0.5, scope="global"), Percentile(0.5), NM(2, 4), Threshold())
    together = [mode for mode in modes if mode.ranks_together]
    assert together == [Percentile(0.5, scope="global")]
