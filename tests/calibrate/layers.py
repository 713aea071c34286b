"""Small models of linear layers, and samples for them."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil.mil import Builder as mb

from mlpass import ADMM, Magnitude, SparseGPT, Wanda
from mlpass.program.mlpackage import Package
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites
from tests.runtime.programs import convert, program

SIZE = 64
METHODS = [Magnitude(), Wanda(), SparseGPT(), SparseGPT(refit=True), ADMM()]


def weights(count, rows=SIZE, columns=SIZE):
    rng = np.random.default_rng(6)
    return [rng.standard_normal((rows, columns)).astype(np.float32) / 8 for _ in range(count)]


def samples(count=32, rows=8, columns=SIZE, seed=7):
    """Correlated inputs, as real activations are."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((columns, columns)) * np.linspace(0.05, 2, columns)
    return [
        {"x": (rng.standard_normal((rows, columns)) @ mix).astype(np.float32)} for _ in range(count)
    ]


def save(build, tmp_path, *shapes, **options):
    path = tmp_path / "model.mlpackage"
    convert(program(build, *(shapes or ((8, SIZE),))), **options).save(str(path))
    return path


def save_mlp(tmp_path):
    """Saves x -> linear -> relu -> linear -> relu -> linear, fp32; returns its path."""
    first, second, third = weights(3)

    def build(x):
        x = mb.relu(x=mb.linear(x=x, weight=first, name="first"))
        x = mb.relu(x=mb.linear(x=x, weight=second, name="second"))
        return mb.linear(x=x, weight=third, name="third")

    return save(build, tmp_path)


def weights_of(package):
    """Decoded weights by the name of their first reader."""
    with Package(package) as opened:
        return {
            site.uses[0].op.outputs[0].name: np.array(weight_of(site))
            for site in find_sites(opened.programs)
        }
