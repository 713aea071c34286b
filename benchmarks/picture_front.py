"""The picture of README: size against quality of tiny_lm, data-free and solved on samples.

    python benchmarks/picture_front.py      # writes mlpass/study/front.svg, in about a minute

Both lines are what `mlpass.sweep` measured of the same forms, on text that no run was solved on.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

import mlpass
from mlpass import NM, OpConfig, Palette, Percentile, Quantized

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "fixtures/tiny_lm.mlpackage"
TEXT = ROOT / "fixtures/licenses/efficientnet-lite-pytorch.txt"
TARGET = ROOT / "mlpass/study/front.svg"
FORMS = {
    "2 bits": OpConfig(storage=Palette(2)),
    "3 bits": OpConfig(storage=Palette(3)),
    "int4": OpConfig(storage=Quantized("int4", block_size=32)),
    "6 bits": OpConfig(storage=Palette(6)),
    "50% zeros, 4 bits": OpConfig(Percentile(0.5), Palette(4)),
    "2:4, int4": OpConfig(NM(2, 4), Quantized("int4")),
}
LINES = {"data-free": (None, "#b8860b"), "solved on samples": ("sparsegpt", "#1f77b4")}
GREY = "#808080"  # is read on a light page and on a dark one


def main() -> None:
    windows = np.fromfile(TEXT, np.uint8)[: 96 * 64].reshape(96, 1, 64).astype(np.int32)
    samples = [{"tokens": window} for window in windows]
    style = {"svg.fonttype": "none", "svg.hashsalt": "mlpass", "font.size": 10}
    with rc_context(style):
        figure = Figure(figsize=(6.4, 3.4))
        axes = figure.subplots()
        for name, (method, color) in LINES.items():
            trials = mlpass.sweep(
                MODEL,
                samples[:64],
                configs=list(FORMS.values()),
                method=method,
                test_data=samples[64:],
                minimum_deployment_target="iOS18",
            ).trials
            kilobytes = [trial.nbytes / 1000 for trial in trials]
            quality = [trial.snr for trial in trials]
            axes.scatter(kilobytes, quality, color=color, label=name, zorder=3)
            for form, x, y in zip(FORMS, kilobytes, quality, strict=True):
                print(f"{name:18} {form!r:20} {x:7.1f} kB {y:6.2f} dB")
                if method:
                    left = form.startswith("2:4")  # the next point is close on its right
                    axes.annotate(
                        form,
                        (x, y),
                        (-6 if left else 6, 3),
                        textcoords="offset points",
                        ha="right" if left else "left",
                        color=GREY,
                        fontsize=8,
                    )
        axes.set_xlabel("size of the package (kB; 784.4 as it came)", color=GREY)
        axes.set_ylabel("SNR of the outputs (dB)", color=GREY)
        axes.tick_params(colors=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.legend(frameon=False, labelcolor=GREY)
        figure.tight_layout()
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    TARGET.write_text(re.sub(r"[ \t]+\n", "\n", written.getvalue()))


if __name__ == "__main__":
    main()
