"""Photos for EfficientNet-Lite0, as random crops: some to calibrate on, others to evaluate on.

They come in the wheels of foolbox (20 of ImageNet), scikit-image and scikit-learn, and in a package
of Debian's (see data_gcompris.py):

    pip install -e '.[bench]'

foolbox's photos of odd number evaluate; all others calibrate. How well a network of ImageNet does
on photos that it was not calibrated on depends on how many those were (see RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import data_gcompris
import numpy as np
from numpy.typing import NDArray
from PIL import Image

COMMAND = "pip install -e '.[bench]'"
OTHERS = (
    ("scikit-image", "skimage/data/astronaut.png"),
    ("scikit-image", "skimage/data/chelsea.png"),
    ("scikit-image", "skimage/data/coffee.png"),
    ("scikit-image", "skimage/data/motorcycle_left.png"),
    ("scikit-image", "skimage/data/rocket.jpg"),
    ("scikit-learn", "sklearn/datasets/images/china.jpg"),
    ("scikit-learn", "sklearn/datasets/images/flower.jpg"),
)
CLASSES = (243, 559, 438, 990, 949, 853, 609, 609, 915, 455)  # of foolbox's, by their number
CLASSES += (541, 630, 741, 471, 129, 99, 251, 22, 317, 305)
SIDE, LEAST_AREA = 224, 0.25


def calibration(count: int) -> list[dict[str, NDArray[Any]]]:
    """Returns crops as `sample_data`, from photos in an order drawn by a fixed seed."""
    photos = [*_foolbox(0), *(_photo(*file) for file in OTHERS), *data_gcompris.photos()]
    order = np.random.default_rng(0).permutation(len(photos))
    return _crops([photos[index] for index in order], count, seed=0)


def evaluation(count: int) -> list[dict[str, NDArray[Any]]]:
    """Returns crops of photos that `calibration` has nothing of."""
    return _crops(_foolbox(1), count, seed=1)


def _foolbox(parity: int) -> list[Image.Image]:
    """Returns foolbox's photos of even number (0) or of odd number (1)."""
    named = [f"{number:02}_{label}" for number, label in enumerate(CLASSES)]
    return [_photo("foolbox", f"foolbox/data/imagenet_{name}.jpg") for name in named[parity::2]]


def _crops(photos: Sequence[Image.Image], count: int, seed: int) -> list[dict[str, NDArray[Any]]]:
    """Returns crops of at least a quarter of a photo's square, taken from each photo in turn."""
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(min(photo.size) * rng.uniform(LEAST_AREA, 1) ** 0.5)
        left, top = (int(rng.integers(extent - side + 1)) for extent in photo.size)
        crop = photo.crop((left, top, left + side, top + side))
        crop = crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = (np.asarray(crop, np.float32) - 127) / 128
        samples.append({"image": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])})
    return samples


def _photo(wheel: str, path: str) -> Image.Image:
    """Returns a photo of an installed wheel.

    Raises:
        SystemExit: it is not installed.
    """
    try:
        return Image.open(str(distribution(wheel).locate_file(path))).convert("RGB")
    except (PackageNotFoundError, FileNotFoundError) as error:
        raise SystemExit(f"{error!r}. Install the photos: {COMMAND}") from None
