"""What a storage is: how kept weights are rounded, and the named parts that stand for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array
from mlpass.options import text_of
from mlpass.registries import STORAGES
from mlpass.sparsity.layout import Layout

Floats = NDArray[np.float32]
Parts = Mapping[str, NDArray[Any]]
# Given a column's index in the sweep and its values, (groups, rows), the values to store.
Rounding = Callable[[int, Array], Array]
# Given column indices in a sweep's order, the rounding of that sweep.
MakeRounding = Callable[[NDArray[np.intp]], Rounding]


class Grid(Protocol):
    """The values that a weight may take, while they are fitted to it."""

    def fit(self, weight: Array, keep: Array) -> MakeRounding:
        """Fixes the values to a pruned weight; returns what rounds columns, and notes their codes.

        Args:
            weight: (groups, rows, columns), zero where it is not kept.
            keep: the same shape.
        """
        ...

    def parts(self, keep: Array) -> dict[str, NDArray[Any]]:
        """Returns the parts that stand for the weight that was rounded last.

        Args:
            keep: its mask, (groups, rows, columns).
        """
        ...


class Storage:
    """How a weight's values are kept.

    Attributes:
        form: the op type of the form that is not sparse, one of `encode.JOINT_FORMS`.
    """

    form: ClassVar[str]

    def __str__(self) -> str:
        """How reports show it."""
        name = STORAGES.name_of(self)
        return text_of(self, "" if name is None else STORAGES[name].words["lead"])

    def grid(self, layout: Layout, power: Floats, dtype: np.dtype[Any]) -> Grid:
        """Returns the grid of one weight.

        Args:
            layout: of the weight as it is stored, whose shape `codes` has.
            power: (groups, columns), how much an error in each column counts.
            dtype: in which it is stored.

        Raises:
            NotApplicable: it does not fit this weight; the text says why.
        """
        raise NotImplementedError

    def stored(
        self, parts: Parts, kept: NDArray[np.bool_], layout: Callable[[], Layout]
    ) -> tuple[str, dict[str, NDArray[Any]]]:
        """Returns the dtype of the codes, and the other parameters of `form`.

        Args:
            parts: from a grid; `codes` are in the weight's shape.
            kept: which of them are stored.
            layout: makes the layout of the weight.

        Raises:
            NotApplicable: the form cannot say it; the text says why.
        """
        raise NotImplementedError
