"""The forms that bench_bytes.py compares, and how each tool is asked for one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARES = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15)  # of the bytes of the dense fp16 weights
THRESHOLD = 2048  # elements; weights of so many or fewer stay as they are, in both tools


@dataclass(frozen=True)
class Form:
    """How the values of all weights are kept.

    Attributes:
        storage: as mlpass takes it.
        sparsity: the share of zeros; coremltools has no form with zeros that is data-free and good.
    """

    storage: dict[str, Any]
    sparsity: float = 0.0


def _palette(bits: int, group: int) -> Form:
    return Form({"palettize": bits, "group_size": group})


FORMS: dict[str, Form] = {
    "int8": Form({"quantize": "int8"}),
    "int4": Form({"quantize": "int4"}),
    "int4-block32": Form({"quantize": "int4", "block_size": 32}),
    **{
        f"palette{bits}" + (f"-rows{group}" if group else ""): _palette(bits, group)
        for bits in (8, 6, 4, 3, 2)
        for group in (0, 16, 8)
    },
    **{
        f"zeros{sparsity:.0%}-".replace("%", "") + f"palette{bits}-rows8": Form(
            {"palettize": bits, "group_size": 8}, sparsity
        )
        for sparsity, bits in ((0.5, 6), (0.5, 4), (0.5, 3), (0.75, 6), (0.75, 4), (0.75, 3))
    },
    "zeros50-int8": Form({"quantize": "int8"}, 0.5),
    "zeros50-int4": Form({"quantize": "int4"}, 0.5),
    "zeros75-int8": Form({"quantize": "int8"}, 0.75),
    "zeros75-int4": Form({"quantize": "int4"}, 0.75),
}
# mlpass chooses: what `prune` is told of each.
BUDGETS: dict[str, dict[str, Any]] = {
    **{f"budget-{share}": {"budget": f"{share}x"} for share in SHARES},
    **{f"bits-{bits}": {"bits": bits} for bits in (4.5, 3.1)},
}


def by_coremltools(source: Path, target: Path, form: Form) -> None:
    """Writes the package in a form without zeros, by coremltools' data-free functions."""
    import coremltools as ct
    from coremltools.optimize import coreml as cto

    model = ct.models.MLModel(str(source), skip_model_load=True)
    options = dict(form.storage)
    group: int = options.get("group_size") or 0
    block: int = options.get("block_size") or 0
    if "palettize" in options:
        config = cto.OpPalettizerConfig(
            mode="kmeans",
            nbits=options["palettize"],
            granularity="per_grouped_channel" if group else "per_tensor",
            group_size=group or 32,
            num_kmeans_workers=1,
            weight_threshold=THRESHOLD,
        )
        made = cto.palettize_weights(model, cto.OptimizationConfig(config))
    else:
        config = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric",
            dtype=options["quantize"],
            granularity="per_block" if block else "per_channel",
            block_size=block or 32,
            weight_threshold=THRESHOLD,
        )
        made = cto.linear_quantize_weights(model, cto.OptimizationConfig(config))
    made.save(str(target))


def text(form: str) -> str:
    """Returns a form's name as tables show it."""
    if form in BUDGETS:
        kind, _, number = form.partition("-")
        return f"its own pick at {number}" + ("x" if kind == "budget" else " bits")
    zeros, _, rest = form.rpartition("zeros")[2].partition("-") if "zeros" in form else ("", "", "")
    plain, _, part = (rest or form).partition("-")
    name = plain.replace("palette", "") + "-bit palette" if "palette" in plain else plain
    if "palette" in plain:
        name += f", groups of {part.removeprefix('rows')}" if part else ", a tensor"
    elif part:
        name += f", blocks of {part.removeprefix('block')}"
    return f"{zeros}% zeros, {name}" if zeros else name
