"""Values that are kept as they come, which a config may ask for by name."""

from __future__ import annotations

from mlpass.registries import storage
from mlpass.storage.storage import Storage


@storage("plain", lead="")
class Plain(Storage):
    """Kept weights stay in the dtype that they have: what no storage at all means.

    In a config it is for weights that should not get the storage which all others get.
    """


def rounding_of(storage: Storage | None) -> Storage | None:
    """Returns a storage that has a grid to round to; None where values are kept as they come."""
    return None if isinstance(storage, Plain) else storage
