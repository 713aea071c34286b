"""A polished module as a package: the same forms, with other floats in them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ExecutionError, ModelFormatError
from mlpass.finetune.places import floats_of, same_constant, with_constant
from mlpass.finetune.rewriting import Rewritten, rewrite_trained
from mlpass.finetune.stored import StoredModule
from mlpass.finetune.weights import find_trained, is_weight
from mlpass.program.dtypes import pack_elements
from mlpass.program.ir import Constant, Op, Program, Value
from mlpass.program.mlmodel import open_package
from mlpass.report.records import Report
from mlpass.runtime.ops import is_constant
from mlpass.weights.ensures import Told
from mlpass.weights.record import untouched_record
from mlpass.weights.sites import Site


def write_stored(
    module: StoredModule,
    output: str | os.PathLike[str],
    *,
    trained: Collection[str],
    force: bool,
) -> Report:
    """Writes a module's model with its trained floats, and returns what was done.

    Args:
        module: the module.
        output: path of the package to write.
        trained: names of the parameters that were trained.
        force: whether to replace an `output` that exists; where it came into being meanwhile, the
            result is kept beside it.

    Raises:
        ExecutionError: a float does not fit its stored type.
        MlpassError: the package was not written as the report says.
        ModelFormatError: the model is no longer the one that was trained.
        OutputExistsError: `output` exists and `force` is False.
        OSError: a file cannot be read or written.
    """
    with open_package(module.source) as package:
        sites = {site.name: site for site in find_trained(package.programs)}
        producers = _producers(package.programs)
        new: dict[str, Constant] = {}
        edits: dict[Op, Op] = {}
        polished: set[str] = set()
        for name, site in module.sites.items():
            parameter = module.parameter_of(name)
            found = sites.get(site.name)
            old = None if found is None else floats_of(found)
            if found is None or old is None or old.type != module.floats[parameter].type:
                raise ModelFormatError(
                    f"{package.name}: {site.name!r} is not stored any more as it was: it is not "
                    "the model that was trained"
                )
            if parameter not in trained:
                continue
            polished.add(site.name)
            if parameter not in new:
                new[parameter] = _stated(module, parameter, old)
            if new[parameter] is not old:
                edits.update(_edits(found, old, new[parameter], producers, edits))
        rewritten = [Rewritten([(op, [edited]) for op, edited in edits.items()], None)]
        for site in filter(is_weight, sites.values()):
            method = "polish" if site.name in polished else None
            told = Told(site, replace(untouched_record(site), method=method))
            rewritten.append(Rewritten((), told))
        return rewrite_trained(package, output, rewritten, force=force, keep=True)


def _stated(module: StoredModule, parameter: str, old: Constant) -> Constant:
    """Returns what takes the place of a constant, stored as it is; itself where nothing changed."""

    def load() -> NDArray[np.uint8]:
        with module.holding([parameter]):
            values = module.rounded(parameter).detach().cpu().numpy()
        if not np.isfinite(values).all():
            raise ExecutionError(
                f"{parameter!r}: holds a value that does not fit {old.dtype.name}: train with a "
                "lower rate"
            )
        return pack_elements(values.astype(str(old.dtype.numpy)), old.dtype)

    before: Any = old.load()
    if np.array_equal(load(), before):
        return old
    storage = None if old.storage is None else (old.storage[0], object())
    return Constant(old.type, load, storage, in_file=old.in_file)


def _edits(
    site: Site, old: Constant, new: Constant, producers: Mapping[Value, Op], known: Mapping[Op, Op]
) -> Iterator[tuple[Op, Op]]:
    """Yields the ops that state a site's floats, in every function, with what replaces them."""
    first = list(_chain(site.makers[0], producers))
    for maker in site.makers:
        # Functions state what is not in a file each for itself, in the same place.
        for like, op in zip(first, _chain(maker, producers), strict=True):
            for parameter, arguments in like.inputs.items():
                for position, argument in enumerate(arguments):
                    if same_constant(argument, old):
                        mine = op.inputs[parameter][position]
                        assert isinstance(mine, Constant)  # makers of a site are alike
                        yield op, with_constant(known.get(op, op), mine, new)


def _chain(op: Op, producers: Mapping[Value, Op]) -> Iterator[Op]:
    """Yields the ops that an op builds on, then the op: a few, one after another."""
    for arguments in op.inputs.values():
        for argument in arguments:
            if isinstance(argument, Value) and argument in producers:
                yield from _chain(producers[argument], producers)
    yield op


def _producers(programs: Sequence[Program]) -> dict[Value, Op]:
    return {
        value: op
        for program in programs
        for function in program.functions.values()
        for op in function.block.walk()
        if is_constant(op)
        for value in op.outputs
    }
