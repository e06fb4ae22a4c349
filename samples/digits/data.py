"""Handwritten digits (scikit-learn's ``load_digits``, 1,797 scans of 8x8 pixels) in one fixed split.

The split is stratified and seeded, so that every sample model sees the same 1,197 training, 200 calibration and 400
test images and no image is in two of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 7
CALIBRATION, TEST = 200, 400
PNG_COUNT = 30
HERE = Path(__file__).resolve().parent


class Part(NamedTuple):
    """One part of the split: ``image`` is float32 [N, 8, 8] in 0..1, ``label`` int64 [N]."""

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]


class Split(NamedTuple):
    """The three disjoint parts."""

    train: Part
    calibration: Part
    test: Part


def load() -> Split:
    """The split that every digit model uses."""
    images, labels = load_digits(return_X_y=True)
    image = (images.reshape(-1, 8, 8) / 16.0).astype(np.float32)
    label = labels.astype(np.int64)
    index = np.arange(len(label))
    rest, test = train_test_split(index, test_size=TEST, random_state=SEED, stratify=label)
    train, calibration = train_test_split(rest, test_size=CALIBRATION, random_state=SEED, stratify=label[rest])
    return Split(*(Part(image[rows], label[rows]) for rows in (train, calibration, test)))


def write_sets(split: Split, folder: Path, name: str, shape: tuple[int, ...], suffix: str = "") -> None:
    """Write ``calibration<suffix>.npz`` (the input alone) and ``test<suffix>.npz`` (the input and ``label``).

    Args:
        split: The data.
        folder: Where to write.
        name: The model's input name, which becomes the array's name.
        shape: Shape of one sample, for instance (1, 8, 8); the array gets [N, *shape].
        suffix: Tells apart the sets of models that share a folder.
    """
    calibration, test = ({name: part.image.reshape(-1, *shape)} for part in (split.calibration, split.test))
    np.savez_compressed(folder / f"calibration{suffix}.npz", allow_pickle=False, **calibration)
    np.savez_compressed(folder / f"test{suffix}.npz", allow_pickle=False, label=split.test.label, **test)


def write_images(split: Split, folder: Path) -> None:
    """Write the first calibration images as 8-bit grey PNG files (value / 255 gives the model's input)."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.rint(split.calibration.image[:PNG_COUNT] * 255).astype(np.uint8)
    for number, pixel in enumerate(pixels):
        Image.fromarray(pixel).save(folder / f"{number:02}_digit{split.calibration.label[number]}.png")


if __name__ == "__main__":
    write_images(load(), HERE / "calibration_images")
