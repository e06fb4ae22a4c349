"""Crops of real photographs: the calibration and the test part come from different photographs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.zoo import fetch

Part = Literal["calibration", "test"]
UInt8 = npt.NDArray[np.uint8]

# Names in zoo.toml, or files of scikit-learn's sample images.
PHOTOS: dict[Part, tuple[str, ...]] = {
    "calibration": ("china.jpg", "photo_coffee", "photo_astronaut", "photo_motorcycle"),
    "test": ("flower.jpg", "photo_chelsea", "photo_rocket"),
}
SMALLEST = 0.35  # share of the photograph's shorter side that a crop covers at least


def _file(name: str) -> Path:
    if not name.endswith(".jpg"):
        return fetch.path(name)
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).with_name("images") / name


@cache
def photo(name: str) -> Image.Image:
    """One photograph in RGB."""
    return Image.open(_file(name)).convert("RGB")


def _crop(image: Image.Image, aspect: float, random: np.random.Generator) -> Image.Image:
    """A random crop whose width is ``aspect`` times its height, mirrored half of the time."""
    tallest = min(image.height, image.width / aspect)
    height = tallest * random.uniform(SMALLEST, 1.0)
    width = height * aspect
    left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
    piece = image.crop((round(left), round(top), round(left + width), round(top + height)))
    return piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else piece


def crops(part: Part, count: int, size: tuple[int, int], random: np.random.Generator) -> UInt8:
    """Random crops in RGB.

    Args:
        part: Which photographs.
        count: How many crops; the photographs take turns.
        size: Height and width of the result.
        random: Source of the positions.

    Returns:
        uint8 [count, height, width, 3].
    """
    height, width = size
    photos = [photo(name) for name in PHOTOS[part]]
    pieces = (_crop(photos[number % len(photos)], width / height, random) for number in range(count))
    return np.stack([np.asarray(piece.resize((width, height), Image.Resampling.BILINEAR)) for piece in pieces])
