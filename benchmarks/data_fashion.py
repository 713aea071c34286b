"""Fashion-MNIST: 60,000 grey images to train on and 10,000 to test, 28 x 28, of ten garments.

It is Debian's package `dataset-fashion-mnist`, unpacked in the data folder:

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb .
"""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
from bench_cache import needed
from numpy.typing import NDArray

PLACE = "usr/share/datasets/fashion-mnist"
COMMAND = "apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb ."
MEAN, DEVIATION = 0.2860, 0.3530  # of the training images


def images(split: str) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Returns images (count, 1, 28, 28) of mean 0 and deviation 1, and their labels (count,).

    Args:
        split: "train" or "t10k".

    Raises:
        SystemExit: the data is missing.
    """
    pixels = _read(f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    scaled = (pixels.astype(np.float32) / 255 - MEAN) / DEVIATION
    return scaled.astype(np.float32), _read(f"{split}-labels-idx1-ubyte.gz", 8).astype(np.int64)


def calibration(count: int) -> list[dict[str, NDArray[Any]]]:
    """Returns images of the training split, drawn by a fixed seed, as `sample_data`."""
    pixels, _ = images("train")
    chosen = np.random.default_rng(0).choice(len(pixels), count, replace=False)
    return [{"image": pixels[index][None]} for index in np.sort(chosen)]


def _read(name: str, header: int) -> NDArray[np.uint8]:
    """Returns the bytes of an IDX file after its header."""
    with gzip.open(needed(f"{PLACE}/{name}", COMMAND)) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)
