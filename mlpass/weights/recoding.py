"""A weight that is solved for on the values that it can take already: scales and tables stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, host
from mlpass.errors import NotApplicable
from mlpass.program.dtypes import DType
from mlpass.program.ir import Constant
from mlpass.runtime.kernels.constexpr import blocks_of, spread
from mlpass.sparsity.layout import Layout
from mlpass.storage.storage import Floats, Grid, MakeRounding, Rounding, Storage
from mlpass.weights.joint import ANEW, coded
from mlpass.weights.sites import Site


@dataclass(frozen=True, eq=False)
class AsCoded(Storage):
    """The storage that a site has, to round to: its codes may change, nothing else does."""

    site: Site

    def __str__(self) -> str:
        """How reports show it."""
        return "as it is coded"

    def others(self) -> dict[str, NDArray[np.generic]]:
        """Returns the site's scales and offsets, or its tables.

        Raises:
            NotApplicable: as `grid`.
        """
        found: dict[str, NDArray[np.generic]] = {}
        for name, (given,) in coded(self.site).others.items():
            if not isinstance(given, Constant):
                raise NotApplicable(f"its {name} is compressed itself; with samples {ANEW}")
            found[name] = np.asarray(given.read())
        return found

    def grid(self, layout: Layout, power: Floats, dtype: np.dtype[np.generic]) -> Grid:
        """Returns the site's own grid.

        Raises:
            NotApplicable: its codes are not stored one by one, or other ops make its tables.
        """
        form, others = coded(self.site), self.others()
        if "lut" in others:
            return _Tables(layout, others["lut"])
        return _Steps(layout, others["scale"], others.get("offset"), form.elements.dtype)


class _Fixed:
    """What both kinds of grid share: nothing is fitted, and codes are noted column by column."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.shape = (*layout.sizes[:2], layout.columns)
        self.codes = np.zeros(self.shape, np.int16)

    def fit(self, weight: Array, keep: Array) -> MakeRounding:
        """Returns what rounds columns: the values are fixed already."""
        return self.rounding

    def rounding(self, order: NDArray[np.intp]) -> Rounding:
        """Returns what rounds the columns of a sweep, and notes their codes."""
        return lambda index, values: self._round(int(order[index]), host(values))

    def nearest(self, weight: Array) -> Floats:
        """Returns each element's nearest value, and notes their codes."""
        columns = [self._round(at, host(weight)[:, :, at]) for at in range(self.shape[2])]
        return np.stack(columns, axis=2)

    def parts(self, keep: Array) -> dict[str, NDArray[np.generic]]:
        """Returns the codes, in the shape of the weight."""
        return {"codes": self.layout.join(self.codes)}

    def _round(self, column: int, values: Floats) -> Floats:
        raise NotImplementedError

    def _matrix(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Returns what there is for each element as (groups, rows, columns)."""
        return self.layout.split(array).reshape(self.shape)


class _Steps(_Fixed):
    """Integers times scales."""

    def __init__(
        self,
        layout: Layout,
        scale: NDArray[np.generic],
        offset: NDArray[np.generic] | None,
        integers: DType,
    ) -> None:
        super().__init__(layout)
        levels = 1 << integers.bits
        self.limits = (-levels // 2, levels // 2 - 1) if integers.signed else (0, levels - 1)
        self.scale = self._matrix(spread(scale.astype(np.float32), layout.shape))
        shifts = np.zeros_like(scale) if offset is None else offset
        self.offset = self._matrix(spread(shifts.astype(np.float32), layout.shape))

    def _round(self, column: int, values: Floats) -> Floats:
        scale, offset = self.scale[:, :, column], self.offset[:, :, column]
        steps = np.divide(values, scale, out=np.zeros_like(values), where=scale != 0)
        codes = np.clip(np.rint(steps + offset), *self.limits)
        self.codes[:, :, column] = codes
        return np.asarray((codes - offset) * scale, np.float32)


class _Tables(_Fixed):
    """Indices into tables."""

    def __init__(self, layout: Layout, lut: NDArray[np.generic]) -> None:
        super().__init__(layout)
        tables = lut.reshape(-1, lut.shape[-2]).astype(np.float32)
        self.order = np.argsort(tables, axis=1, kind="stable")
        self.tables: Floats = np.take_along_axis(tables, self.order, axis=1)
        self.middles = (self.tables[:, 1:] + self.tables[:, :-1]) / 2
        blocks = np.broadcast_to(blocks_of(layout.shape, lut.shape[:-2]), layout.shape)
        self.table = self._matrix(blocks.astype(np.int32))

    def _round(self, column: int, values: Floats) -> Floats:
        table = self.table[:, :, column]
        place = np.zeros(table.shape, np.intp)
        for middle in range(self.middles.shape[1]):  # as the tables of neighbours differ
            place += values > self.middles[table, middle]
        self.codes[:, :, column] = self.order[table, place]
        return np.asarray(self.tables[table, place])
