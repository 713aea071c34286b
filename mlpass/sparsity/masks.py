"""The keep mask of a score of either kind: numpy's array, or torch's tensor on its device."""

from __future__ import annotations

from typing import Any

from mlpass.sparsity.layout import Layout
from mlpass.sparsity.modes import Mode
from mlpass.sparsity.tensors import host, is_tensor, placed


def keep_mask(mode: Mode, score: Any, layout: Layout | None = None) -> Any:
    """Returns the keep mask of a score, of its kind and on its device.

    Every mode of `MODES` has a rule for tensors. To one of another class the score goes as numpy's
    array, and its mask comes back.

    Args:
        mode: any.
        score: in the shape of `layout`, an array or a tensor.
        layout: what the axes of the score are.

    Raises:
        NotApplicable: the mode does not fit this weight; the text says why.
    """
    if not is_tensor(score):
        return mode.keep(score, layout)
    from mlpass.sparsity.tensor_masks import RULES

    rule = RULES.get(type(mode))
    if rule is None:
        return placed(mode.keep(host(score), layout), score)
    return rule(mode, score, layout)
