"""Compressed packages of every form, made of the fixtures."""

from __future__ import annotations

from pathlib import Path

import mlpass
from mlpass import NM, Palette, Percentile, Quantized
from tests.finetune.networks import FIXTURES

# Fixture, mode, storage: by the forms that come of them.
FORMS = {
    "sparse, iOS16": ("digits_ios15", Percentile(0.5), None),
    "sparse, iOS18": ("stateful_lm", NM(2, 4), None),
    "palettized, iOS16": ("tiny_lm", Percentile(0.0), Palette(bits=4, group_size=None)),
    "quantized, iOS16": ("tiny_lm", Percentile(0.0), Quantized("int8")),
    "palettized, iOS18": ("stateful_lm", Percentile(0.0), Palette(bits=2)),
    "quantized in blocks": ("stateful_lm", Percentile(0.0), Quantized("int4", block_size=32)),
    "with offsets": ("stateful_lm", Percentile(0.0), Quantized("uint4")),
    "sparse + palettized": ("stateful_lm", Percentile(0.75), Palette(bits=4)),
    "sparse + quantized": ("stateful_lm", Percentile(0.5), Quantized("int4")),
    "palettized elsewhere": ("palettized_digits", None, None),
    "quantized elsewhere": ("quantized_digits", None, None),
    "joint of palettized": ("palettized_digits", Percentile(0.5), None),
    "joint of quantized": ("quantized_digits", Percentile(0.5), None),
    "shared by functions": ("multifunction_lm", Percentile(0.5), Quantized("int4")),
    "a pipeline": ("digits_pipeline", Percentile(0.5), None),
    "a classifier": ("digits_classifier", Percentile(0.0), Palette(bits=4, group_size=None)),
    "recurrent": ("silero_vad", Percentile(0.5), None),
    "in branches": ("branches", Percentile(0.5), None),
    "dense": ("basic_pitch", None, None),
}


def compressed(name: str, folder: Path) -> Path:
    """Returns a package of a form."""
    fixture, mode, storage = FORMS[name]
    source, output = FIXTURES / f"{fixture}.mlpackage", folder / "compressed.mlpackage"
    if mode is None:
        return source
    mlpass.prune(source, output, mode, storage=storage)
    return output
