"""Constants that are not weights, but large: the smallest form that holds exactly their values."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from mlpass.errors import NotApplicable
from mlpass.plan.steps import Step
from mlpass.program.ir import Program
from mlpass.sparsity.modes import Percentile
from mlpass.storage.lossless import Lossless
from mlpass.weights.footprint import footprint
from mlpass.weights.lossless import encode_lossless
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import Site, find_sites

# Parameters that take what a model computes as well as a constant, so a decoded one too.
_ARITHMETIC = ("add", "sub", "mul", "real_div", "maximum", "minimum")
_READERS = {**dict.fromkeys(_ARITHMETIC, ("x", "y")), "select": ("a", "b")}
_FEW = 2048  # elements of a constant that is not worth it


class Exact(NamedTuple):
    """What is to become of a constant, and the bytes that it takes then."""

    step: Step
    nbytes: int


def find_constants(programs: Sequence[Program]) -> list[Site]:
    """Returns the constants that ops read beside what the model computes."""
    return find_sites(programs, _READERS)


def find_all(programs: Sequence[Program]) -> list[Site]:
    """Returns the weight sites and these constants: all that a budget is divided among."""
    return [*find_sites(programs), *find_constants(programs)]


def exact_constants(programs: Sequence[Program]) -> list[Exact]:
    """Returns the constants that take less in another form of the very same values.

    An attention mask is one: thousands of elements, and two values.
    """
    found = []
    for site in find_constants(programs):
        if site.refusal is not None or prod(site.shape) <= _FEW:
            continue
        try:
            encoded = encode_lossless(site, weight_of(site), np.ones(site.shape, bool))
        except NotApplicable:
            continue
        nbytes = footprint(encoded.ops)
        found.append(Exact(Step(site, Percentile(0.0), None, storage=Lossless()), nbytes))
    return found
