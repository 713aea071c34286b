"""Attention, against torch and MIL's own inference of constant values."""

import math

import numpy as np
import pytest
import torch.nn.functional as functional
from harness import Record, check, compare, over, run

import mlpass.runtime.kernels.attention as module

RNG = np.random.default_rng(6)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def attention(query, key, value, attn_mask=None):
    query, key, value = (part.astype(np.float64) for part in (query, key, value))
    scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        added = attn_mask
        if attn_mask.dtype == bool:
            added = np.where(attn_mask, 0.0, -np.inf)
        scores = scores + added
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ value


def case(name, lead, masks=None, length=4, source=5, width=3, out=2):
    arguments = {
        "query": normal(*lead, length, width),
        "key": normal(*lead, source, width),
        "value": normal(*lead, source, out),
    }
    if masks is not None:
        arguments["attn_mask"] = masks
    return Record("scaled_dot_product_attention", arguments, attention, name=name)


def some(*shape):
    """A mask of bools with at least one True a row."""
    mask = RNG.random(shape) < 0.5
    mask[..., 0] = True
    return mask


NOTHING = some(2, 4, 5)
NOTHING[1, 2] = False
RECORDS = [
    case("rank_3", (2,)),
    case("rank_4", (2, 3)),
    case("rank_5", (2, 1, 3)),
    case("float_mask", (2, 3), normal(4, 5)),
    case("float_mask_of_all", (2, 3), normal(2, 3, 4, 5)),
    case("float_mask_of_batch", (2, 3), normal(2, 1, 4, 5)),
    case("float_mask_of_keys", (2, 3), normal(1, 5)),
    case("float_mask_of_one_axis", (2, 3), normal(5)),
    case("bool_mask", (2, 3), some(4, 5)),
    case("bool_mask_of_all", (2, 3), some(2, 3, 4, 5)),
    case("bool_mask_of_keys", (2,), some(1, 5)),
    case("infinite_mask", (2,), np.where(some(4, 5), 0, -np.inf).astype(np.float32)),
    case("nothing_to_attend_to", (2,), NOTHING),
    case("infinite_mask_of_all_keys", (2,), np.where(NOTHING, 0, -np.inf).astype(np.float32)),
    case("one_key", (2,), source=1),
    case("one_query", (2, 2), length=1),
]


@over(RECORDS)
def test_kernel(record, namespace):
    with np.errstate(invalid="ignore"):  # inf - inf, where nothing is attended to
        check(record, namespace)


def test_no_attention_gives_nan_as_in_mil():
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder, Function

    record = next(record for record in RECORDS if record.name == "nothing_to_attend_to")
    with Function({}, opset_version=ct.target.iOS18), np.errstate(invalid="ignore"):
        inferred = Builder.scaled_dot_product_attention(**record.arguments).val
    assert np.isnan(inferred).any()
    for namespace in ("numpy", "torch"):
        compare(run(record.op, record.arguments, namespace), inferred, 1e-5, namespace)


@pytest.mark.parametrize("scores", [1, 25, 50, 1000])
def test_heads_in_parts_are_the_same(monkeypatch, scores):
    monkeypatch.setattr(module, "_SCORES", scores)
    for record in RECORDS:
        check(record, "numpy")


def test_large_scores_do_not_overflow():
    query = np.full((1, 2, 4), 1e4, np.float32)
    arguments = {"query": query, "key": query, "value": normal(1, 2, 3)}
    expected = np.broadcast_to(arguments["value"].mean(1, keepdims=True), (1, 2, 3))
    compare(run("scaled_dot_product_attention", arguments, "numpy"), expected, 1e-5, "attention")


def test_it_agrees_with_torch():
    import torch

    query, key, value = normal(2, 3, 4, 8), normal(2, 3, 6, 8), normal(2, 3, 6, 5)
    mask = some(4, 6)
    expected = functional.scaled_dot_product_attention(
        *map(torch.from_numpy, (query, key, value, mask))
    ).numpy()
    arguments = {"query": query, "key": key, "value": value, "attn_mask": mask}
    compare(run("scaled_dot_product_attention", arguments, "numpy"), expected, 1e-5, "attention")


def test_it_is_from_ios18():
    with pytest.raises(LookupError):
        run("scaled_dot_product_attention", {}, "numpy", 17)
