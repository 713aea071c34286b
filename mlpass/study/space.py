"""The space that studies race: forms without zeros, with zeros, solved on samples, and mixed."""

from __future__ import annotations

from mlpass.plan.config import Config, OpConfig
from mlpass.program.mlpackage import Package
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.sparsity.modes import NM, Percentile
from mlpass.storage.given import StorageLike
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.storage.storage import Storage, is_old
from mlpass.study.grid import Candidate, make_candidates, patterns

_FORMS: tuple[Storage, ...] = (
    Quantized("int8"),
    Palette(6),
    Palette(4),
    Quantized("int4", block_size=32),
    Palette(3),
    Palette(2),
)
_OLD_FORMS: tuple[Storage, ...] = (  # of iOS16 and 17
    Quantized("int8"),
    Palette(6, group_size=0),
    Palette(4, group_size=0),
    Palette(2, group_size=0),
)
_HALF = Percentile(0.5)
_MASKED = tuple(OpConfig(Percentile(share), Palette(4)) for share in (0.5, 0.75))
_OLD_MASKED = (Percentile(0.75), Percentile(0.85))  # no codes beside a mask
_SHARES = ("0.4x", "0.3x", "0.2x", "0.15x")  # of the bytes of all weights

NEEDS_NEWER = (
    "int4, tables for groups of rows, and masks with codes were not tried, they need iOS18: "
    'minimum_deployment_target="iOS18" (--minimum-deployment-target iOS18) raises the model'
)


def is_old_package(package: Package) -> bool:
    """Returns whether a model's op set has only the first compressed forms, of iOS16."""
    return any(is_old(program.opset) for program in package.programs)


def forms(old: bool) -> tuple[Storage, ...]:
    """Returns the storages without zeros that are raced, of most bytes first."""
    return _OLD_FORMS if old else _FORMS


def within(budget: int | str) -> Candidate:
    """Returns the candidate that divides a size of weight files among all weights."""
    return Candidate("budget", Config(), SparseGPT(), {"budget": budget})


def default_candidates(
    old: bool, sampled: bool, method: object = None, storage: StorageLike = None
) -> list[Candidate]:
    """Returns what a sweep tries where no configs are given.

    That is the whole space, from half the size to 0.15 of it; by methods of the user's own each of
    its forms; in a storage of the user's own all kinds of patterns.

    Raises:
        ConfigError: as `make_candidates`.
    """
    if storage is not None:
        return make_candidates(patterns(), method, storage)
    dense, masked = forms(old), _OLD_MASKED if old else _MASKED
    if method is not None or not sampled:
        return make_candidates([*dense, _HALF, NM(2, 4), *masked], method)
    return [
        *make_candidates([*dense, _HALF]),
        *make_candidates([*dense[2:4], _HALF, *masked], SparseGPT()),
        *map(within, _SHARES),
    ]
