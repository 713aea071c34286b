"""Some 300 photos of animals, monuments and things, for models of ImageNet to be calibrated on.

They are in Debian's package `gcompris-qt-data`, unpacked in the data folder, with a few drawings
and paintings; its file of copyrights names the author and the licence of each:

    apt-get download gcompris-qt-data && dpkg-deb -x gcompris-qt-data_*.deb .
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from bench_cache import needed
from PIL import Image

PLACE = "usr/share/gcompris-qt/rcc"
COMMAND = "apt-get download gcompris-qt-data && dpkg-deb -x gcompris-qt-data_*.deb ."
LEAST = 180  # pixels of the shorter side: below that they are icons


def photos() -> list[Image.Image]:
    """Returns the photos, in the order in which they are stored.

    Raises:
        SystemExit: the data is missing.
    """
    found = []
    for file in sorted(needed(PLACE, COMMAND).glob("*.rcc")):
        found += [one for one in _images(file.read_bytes()) if min(one.size) >= LEAST]
    return found


def _images(resources: bytes) -> Iterator[Image.Image]:
    """Yields the opaque WebP images of a file of Qt resources, which holds them as they are."""
    start = resources.find(b"RIFF")
    while start >= 0:
        if resources[start + 8 : start + 12] == b"WEBP":
            size = 8 + int.from_bytes(resources[start + 4 : start + 8], "little")
            image = Image.open(io.BytesIO(resources[start : start + size]))
            if image.mode == "RGB":
                yield image
        start = resources.find(b"RIFF", start + 4)
