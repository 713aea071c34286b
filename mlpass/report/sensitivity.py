"""How each layer bears pruning: one record a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from mlpass.errors import visible
from mlpass.report.plain import plain
from mlpass.report.shown import Shown, Table
from mlpass.report.table import bytes_text


@dataclass(frozen=True)
class LayerSensitivity:
    """One weight site, pruned by itself in the model as it is.

    Attributes:
        name: of the weight.
        size: how many elements it has.
        errors: relative output error at each of the report's sparsities; none where it is skipped.
        nbytes: stored bytes at each; a kept weight that fp16 rounds to 0 saves two more.
        skipped: why it was not measured; None where it was.
    """

    name: str
    size: int
    errors: tuple[float, ...]
    nbytes: tuple[int, ...]
    skipped: str | None = None


@dataclass(frozen=True)
class SensitivityReport(Shown):
    """The layers of a model, and what each sparsity would cost each of them.

    Attributes:
        model: that was read.
        method: that pruned, as text.
        samples: how many there were.
        sparsities: that were tried, ascending.
        layers: one record a weight site.
    """

    model: str
    method: str
    samples: int
    sparsities: tuple[float, ...]
    layers: tuple[LayerSensitivity, ...]

    listed: ClassVar[str] = "layers"

    def to_dict(self) -> dict[str, Any]:
        """Returns everything ready for JSON, None for a number that is not finite."""
        return plain(asdict(self))

    def parts(self) -> Sequence[Table | str]:
        """Returns the layers, and what was measured."""
        headers = ["weight", "elements", *(f"at {sparsity:g}" for sparsity in self.sparsities)]
        rows = [
            [layer.name, str(layer.size), *([f"{error:.2e}" for error in layer.errors])]
            if layer.skipped is None
            else [layer.name, str(layer.size), f"skipped: {layer.skipped}"]
            for layer in self.layers
        ]
        total = sum(layer.nbytes[0] for layer in self.layers if layer.nbytes)
        told = (
            f"{visible(self.model)}: relative output error by {self.method}, "
            f"{self.samples} samples, {bytes_text(total)} of weights measured"
        )
        return [Table(headers, rows), told]
