"""Values that are kept exactly, in the smallest form that there is for them."""

from __future__ import annotations

from typing import ClassVar

from mlpass.registries import storage
from mlpass.storage.storage import Storage


@storage("lossless", lead="", flag="the smallest form that decodes to the very same values")
class Lossless(Storage):
    """Every weight in the smallest of all forms that decode to exactly its values.

    A weight that has zeros, few values, or values on a grid takes less so: one that was palettized,
    quantized or pruned in training, or by others. Weights that are compressed already are decoded,
    and stored anew where that is smaller. `exact_forms` lists the forms; which is taken is known
    only once a weight is read.
    """

    exact: ClassVar[bool] = True
