"""Attention, against torch and MIL's own inference of constant values."""

import math

import numpy as np
import pytest
import torch.nn.functional as functional
from harness import Record, check, compare, over, run

import mlpass.runtime.kernels.attention as module
from mlpass.runtime.kernels.registry import find_kernel

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
    highest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isinf(highest), 0, highest))
    sums = weights.sum(-1, keepdims=True)
    return weights / np.where(sums == 0, 1, sums) @ value  # zeros, where nothing is attended to


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
    case(
        "banned_in_heads",
        (2, 3),
        np.where(some(4, 5) & (np.arange(4) != 1)[:, None], 0, -np.inf).astype(np.float32),
    ),
    case("one_key", (2,), source=1),
    case("one_query", (2, 2), length=1),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("name", ["nothing_to_attend_to", "infinite_mask_of_all_keys"])
@pytest.mark.parametrize("namespace", ["numpy", "torch"])
def test_no_attention_gives_zeros_as_in_torch(name, namespace):
    import coremltools as ct
    import torch
    from coremltools.converters.mil.mil import Builder, Function

    (record,) = (record for record in RECORDS if record.name == name)
    tensors = [torch.from_numpy(array) for array in record.arguments.values()]
    expected = functional.scaled_dot_product_attention(*tensors).numpy()
    assert not expected[1, 2].any()  # torch is of that mind, too
    made = run(record.op, record.arguments, namespace)
    assert not np.asarray(made)[1, 2].any()
    compare(made, expected, 1e-5, namespace)

    with Function({}, opset_version=ct.target.iOS18), np.errstate(invalid="ignore"):
        inferred = Builder.scaled_dot_product_attention(**record.arguments).val
    told = ~np.isnan(inferred)  # all but that row, where coremltools states what its formula gives
    assert np.count_nonzero(~told) == inferred.shape[-1]
    compare(np.asarray(made)[told], inferred[told], 1e-5, namespace)


def test_what_is_not_a_number_stays_so():
    (record,) = (record for record in RECORDS if record.name == "rank_3")
    query = record.arguments["query"].copy()
    query[0, 1] = np.nan
    for namespace in ("numpy", "torch"):
        made = run(record.op, {**record.arguments, "query": query}, namespace)
        assert np.isnan(np.asarray(made)).any(-1).nonzero()[0].tolist() == [0]


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", ["infinite_mask_of_all_keys", "banned_in_heads"])
def test_no_attention_has_finite_gradients(name, backend):
    import torch
    from array_api_compat import torch as xp

    (record,) = (record for record in RECORDS if record.name == name)
    arguments = {name: torch.from_numpy(array) for name, array in record.arguments.items()}
    arguments["query"].requires_grad_()
    find_kernel(record.op, 18, backend)(xp, **arguments).sum().backward()
    assert arguments["query"].grad.isfinite().all()


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
