"""Weights in two parts, codes for all elements and outliers beside them: written, and found again.

No op decodes a sum, so each op that reads such a weight is done twice, once with each part, and
what it makes is added: `linear(x, W) = linear(x, W_codes) + linear(x, W_rest)`, the bias once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ConfigError
from mlpass.program import encode
from mlpass.program.ir import Argument, Constant, Op, Program, Raw, TensorType, Value
from mlpass.program.reads import arguments_of
from mlpass.weights.ops.record import find_record
from mlpass.weights.site import Apart, Site, Use

_BIAS = "bias"


def rest_ops(site: Site, apart: Raw, rest: NDArray[np.generic]) -> list[tuple[Op, list[Op]]]:
    """Returns each op that reads a weight, with those that take its place.

    Args:
        site: whose weight it is.
        apart: the bits of which elements have a rest, least significant first.
        rest: what they are more than what is stored for them, in the order of storage.
    """
    beside = site.constant
    assert beside is not None  # what is compressed gets no outliers
    data = Constant.of(rest, beside)
    forms = {
        maker.outputs[-1]: encode.form_of(opset)
        for maker, opset in zip(site.makers, site.opsets, strict=True)
    }
    masks = {
        form: encode.mask_constant(apart, site.shape, form, beside) for form in {*forms.values()}
    }
    # Stored once, but constants of its own for each value, whose readers come one after the other.
    held = {value: (replace(masks[form]), replace(data)) for value, form in forms.items()}
    found = []
    for use in site.uses:
        weight = _argument(use)
        assert isinstance(weight, Value)  # a site's uses read what its makers make
        name, form = f"{weight.name}_rest", forms[weight]
        maker = Op("const", name, {}, (Value(name, weight.type),))
        remainder = encode.sparse(maker, *held[weight], form)
        found.append((use.op, [remainder, *_added(use, remainder.outputs[0])]))
    return found


def is_sum(use: Use) -> bool:
    """Returns whether an op that reads a weight can be done in two parts."""
    record = find_record(use.op.type, use.parameter)
    return record is not None and record.adds


def check_sums(site: Site) -> None:
    """Raises ConfigError where an op that reads a weight cannot be done in two parts."""
    for use in site.uses:
        if not is_sum(use):
            raise ConfigError(
                f"outliers: {use.op.type} is not a sum over the parts of its weight, as outliers "
                f"need it ({site.name!r}); give it a storage without outliers, or none: "
                f"op_type_configs={{{use.op.type!r}: None}} (--config)"
            )


def joined(programs: Iterable[Program], sites: Sequence[Site]) -> list[Site]:
    """Returns the sites of a model, those that are two parts of one weight as one."""
    kinds = {site.is_sparse for site in sites if site.is_compressed}
    if kinds != {True, False}:  # codes and a sparse rest
        return [*sites]
    uses = {use.op: (site, use) for site in sites for use in site.uses}
    adds, readers = _sums(programs)
    found: dict[Site, list[tuple[Use, Site, Op]]] = {}
    for add, first, second in adds:
        for codes, rest in ((first, second), (second, first)):
            if codes not in uses or rest not in uses or _shared(codes, rest, readers):
                continue
            (site, use), (other, other_use) = uses[codes], uses[rest]
            if _is_pair(site, use, other, other_use):
                found.setdefault(site, []).append((use, other, add))
    gone: set[Site] = set()
    whole: dict[Site, Site] = {}
    for site, pairs in found.items():
        rests = {rest for _, rest, _ in pairs}
        if len(rests) == 1 and len(pairs) == len(site.uses) == len(next(iter(rests)).uses):
            (other,) = rests
            gone.add(other)
            apart = Apart(other.parts, {use.op: add for use, _, add in pairs})
            reason = f"its outliers are kept apart, in {other.name!r}"
            whole[site] = replace(site, apart=apart, other_use=reason)
    return [whole.get(site, site) for site in sites if site not in gone]


def _sums(programs: Iterable[Program]) -> tuple[list[tuple[Op, Op, Op]], Counter[Argument]]:
    """Returns each sum with the two ops whose results it adds, and how often values are read."""
    adds: list[tuple[Op, Op, Op]] = []
    readers: Counter[Argument] = Counter()
    for block in (f.block for program in programs for f in program.functions.values()):
        producers: dict[Argument, Op] = {}
        for op in block.walk():
            producers.update((value, op) for value in op.outputs)
            read = [*arguments_of(op)]
            readers.update(read)
            if op.type == "add" and len(read) == 2 and producers.keys() >= {*read}:
                adds.append((op, producers[read[0]], producers[read[1]]))
        for nested in block.walk_blocks():
            readers.update(nested.outputs)
    return adds, readers


def _added(use: Use, rest: Value) -> list[Op]:
    """Returns an op done with both parts of its weight, and the sum of what these make."""
    op = use.op
    (made,) = op.outputs
    name = op.name or made.name
    results = [Value(f"{made.name}_{part}", made.type) for part in ("codes", "rest")]
    inputs = {key: value for key, value in op.inputs.items() if key != _BIAS}
    arguments = [*inputs[use.parameter]]
    arguments[use.position] = rest
    inputs[use.parameter] = tuple(arguments)
    return [
        replace(op, name=f"{name}_codes", outputs=(results[0],)),
        Op(op.type, f"{name}_rest", inputs, (results[1],)),
        Op("add", op.name, {"x": (results[0],), "y": (results[1],)}, op.outputs),
    ]


def _is_pair(site: Site, use: Use, other: Site, other_use: Use) -> bool:
    """Returns whether a use of codes and one of a sparse weight are one op in two parts."""
    return (
        is_sum(use)
        and site.is_compressed
        and not site.is_sparse
        and other.is_sparse
        and site.other_use is None
        and other.other_use is None
        and site.shape == other.shape
        and (use.op.type, use.parameter, use.position)
        == (other_use.op.type, other_use.parameter, other_use.position)
        and _same_inputs(use, other_use)
    )


def _same_inputs(use: Use, other: Use) -> bool:
    """Returns whether two ops read the same but for their weights, and the second no bias."""
    first = {key: value for key, value in use.op.inputs.items() if key != _BIAS}
    second = other.op.inputs
    if first.keys() != second.keys():
        return False
    return all(
        len(values) == len(second[key])
        and all(
            (key, position) == (use.parameter, use.position) or _same(one, another)
            for position, (one, another) in enumerate(zip(values, second[key], strict=True))
        )
        for key, values in first.items()
    )


def _same(one: Argument, other: Argument) -> bool:
    if one is other:
        return True
    if not (isinstance(one, Constant) and isinstance(other, Constant)) or one.type != other.type:
        return False
    if one.storage is not None and one.storage == other.storage:
        return True
    if isinstance(one.type, TensorType):
        return bool(np.array_equal(one.read(), other.read()))
    return bool(one.load() == other.load())


def _shared(codes: Op, rest: Op, readers: Counter[Argument]) -> bool:
    """Returns whether somebody else reads what two ops make."""
    return any(readers[value] != 1 for op in (codes, rest) for value in op.outputs)


def _argument(use: Use) -> Argument:
    return use.op.inputs[use.parameter][use.position]
