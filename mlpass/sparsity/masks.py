"""The keep mask of a score wherever it is: on the host, or on a device."""

from __future__ import annotations

from mlpass.arrays import Array, host, on_host, placed
from mlpass.sparsity.device_masks import RULES
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode


def keep_mask(mode: Mode, score: Array, layout: Layout | None = None) -> Array:
    """Returns the keep mask of a score, of its kind and on its device.

    Every mode of `MODES` has a rule for devices. To one of another class the score goes as numpy's
    array, and its mask comes back.

    Args:
        mode: any.
        score: in the shape of `layout`.
        layout: what the axes of the score are.

    Raises:
        NotApplicable: the mode does not fit this weight; the text says why.
    """
    rule = None if on_host(score) else RULES.get(type(mode))
    if rule is None:
        return placed(mode.keep(host(score), layout), score)
    return rule(mode, score, layout)
