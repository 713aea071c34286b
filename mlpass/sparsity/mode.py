"""What a mode is: a score to a keep mask, over a whole weight or window by window."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ConfigError, NotApplicable
from mlpass.options import check_options, phrase_of, text_of
from mlpass.sparsity.layout import Layout, transposed_layout
from mlpass.sparsity.ranking import Mask, Score


@dataclass(frozen=True)
class Mode:
    """A rule that says which elements of a weight stay.

    Attributes:
        structured: whether elements become zero together, by their places.
        whole_outputs: whether all that make one output do.
    """

    structured: ClassVar[bool] = False
    whole_outputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def target(self) -> float | None:
        """The sparsity that it leads to; None where the weight decides."""
        return getattr(self, "target_sparsity", None)

    @property
    def ranks_together(self) -> bool:
        """Whether all weights that share it are ranked together."""
        return False

    def at(self, sparsity: float) -> Mode:
        """Returns the same mode at another sparsity, 0 to 1.

        Raises:
            ConfigError: it names no sparsity that could be another.
        """
        if self.target is None:
            raise ConfigError(
                f"config: {self} has no target sparsity for a schedule to lead to; Percentile, NM, "
                "Block, Kernel and Channel do"
            )
        return replace(self, target_sparsity=sparsity)  # type: ignore[call-arg]

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns the keep mask of `score`, in its shape.

        Raises:
            NotApplicable: the mode does not fit this weight; the text says why.
        """
        raise NotImplementedError

    def windows(self, layout: Layout, width: int) -> list[Window]:
        """Returns windows over all columns, for a method that decides columns in turn.

        Their counts add up to exactly what `keep` would zero. A mode that ranks whole rows, or
        compares with a fixed number, decides all columns at once.

        Args:
            layout: of the whole weight.
            width: how many columns to decide at once, where the mode leaves a choice.

        Raises:
            NotApplicable: the mode does not fit this weight; the text says why.
        """
        every = np.arange(layout.columns)
        return [Window(every, transposed_layout(*layout.sizes), self)]

    def exchanges(self, layout: Layout) -> list[NDArray[np.intp]]:
        """Returns sets of columns within which any row may keep one element instead of another.

        The list is empty where whole slices go together, or elements by what they are.
        """
        return []

    def per_row(self) -> Mode:
        """Returns the mode that ranks each output row by itself, where there is a choice."""
        return self

    def __str__(self) -> str:
        return text_of(self, next((each.name for each in fields(self)), ""))

    @property
    def phrase(self) -> str:
        """How people say it: "50% zeros in blocks of 4"."""
        return phrase_of(self)


class Window(NamedTuple):
    """Columns of a weight matrix that are decided together, and the mode that decides them.

    Attributes:
        columns: indices into channels times positions, positions last.
        layout: of their (groups, columns, rows) score, transposed since columns go one by one.
        mode: with the count that this window has to zero.
    """

    columns: NDArray[np.intp]
    layout: Layout
    mode: Mode


def needed(mode: Mode, layout: Layout | None) -> Layout:
    """Returns the layout; raises NotApplicable where it is None."""
    if layout is None:
        raise NotApplicable(f"{type(mode).__name__} needs input and output channels")
    return layout
