"""The committed sample models are as accurate as samples/README.md says, on images that nobody trained on."""

from __future__ import annotations

import itertools
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

SAMPLES = Path(__file__).parents[2] / "samples"
Array = npt.NDArray[Any]


def promised(file: str) -> float:
    rows = (SAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    row = next(row for row in rows if row.startswith(f"| `{file}`"))
    return float(re.findall(r"[\d.]+", row.split("|")[-2])[0])


def read(folder: str, name: str) -> dict[str, Array]:
    with np.load(SAMPLES / folder / name) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("folder", "suffix", "key", "shape"),
    [
        ("digits_torch", "", "image", (1, 8, 8)),
        ("digits_keras", "", "image", (8, 8, 1)),
        ("digits_keras", "_rows", "rows", (8, 8)),
    ],
)
def test_calibration_and_test_sets_are_the_split(folder: str, suffix: str, key: str, shape: tuple[int, ...]) -> None:
    pytest.importorskip("sklearn", reason="holds the digits")
    from samples.digits.data import load

    split, calibration = load(), read(folder, f"calibration{suffix}.npz")
    test = read(folder, f"test{suffix}.npz")
    assert calibration[key].shape == (200, *shape)
    assert np.array_equal(calibration[key].reshape(-1, 8, 8), split.calibration.image)
    assert np.array_equal(test[key].reshape(-1, 8, 8), split.test.image)
    assert np.array_equal(test["label"], split.test.label)


def test_no_image_is_in_two_parts() -> None:
    pytest.importorskip("sklearn", reason="holds the digits")
    from samples.digits.data import load

    parts = [{image.tobytes() for image in part.image} for part in load()]
    assert [len(part) for part in parts] == [1197, 200, 400]
    assert not any(one & two for one, two in itertools.combinations(parts, 2))


def test_pictures_are_calibration_images() -> None:
    from PIL import Image

    images = read("digits_torch", "calibration.npz")["image"]
    paths = sorted((SAMPLES / "digits" / "calibration_images").glob("*.png"))
    assert len(paths) == 30
    for image, path in zip(images[:30, 0], paths, strict=True):
        assert np.abs(np.asarray(Image.open(path)) / 255 - image).max() < 0.002


def test_exported_program_and_builder_keep_their_accuracy() -> None:
    torch = pytest.importorskip("torch", reason="runs digits.pt2")
    safetensors = pytest.importorskip("safetensors.torch", reason="reads the weights")
    from samples.digits_torch.model import build

    test, network = read("digits_torch", "test.npz"), build().eval()
    network.load_state_dict(safetensors.load_file(SAMPLES / "digits_torch" / "digits.safetensors"))
    program = torch.export.load(SAMPLES / "digits_torch" / "digits.pt2").module()
    with torch.no_grad():
        one, two = (model(torch.from_numpy(test["image"])).numpy() for model in (program, network))
    assert np.allclose(one, two, atol=1e-5)
    assert (one.argmax(1) == test["label"]).mean() == pytest.approx(promised("digits_torch/digits.pt2"), abs=0.003)


@pytest.mark.parametrize(("name", "suffix"), [("digits", ""), ("digits_lstm", "_rows"), ("digits_gru", "_rows")])
def test_keras_files_keep_their_accuracy(name: str, suffix: str) -> None:
    keras = pytest.importorskip("keras", reason="runs the .keras files")
    test = read("digits_keras", f"test{suffix}.npz")
    label = test.pop("label")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # Keras with NumPy 2
        found = keras.models.load_model(SAMPLES / "digits_keras" / f"{name}.keras").predict_on_batch(test)
    assert (found.argmax(1) == label).mean() == pytest.approx(promised(f"digits_keras/{name}.keras"), abs=0.003)


def test_committed_files_are_small_and_name_no_machine() -> None:
    files = [path for path in SAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert max(path.stat().st_size for path in files) < 300_000
    assert not [path for path in files if str(SAMPLES.parent).encode() in path.read_bytes()]
