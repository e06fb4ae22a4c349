"""Folders of images: the stated preprocessing is applied to the letter, and what is not stated is asked for."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from hub._calibration import LoadedSamples, infer_shapes, load_samples
from hub.spec import CalibrationError, Dim, DType, SampleFolder, Signature, TensorSpec

SAMPLES = Path(__file__).parents[2] / "samples"
RNG = np.random.default_rng(11)
STATED = "scale=1/255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225"
PLAIN = "scale=1&mean=0&std=1"


def takes(*dims: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name="image", dtype=DType(dtype), shape=tuple(map(Dim.of, dims)))


def no_function(reference: str, folder: Path) -> int:
    raise AssertionError(f"{reference} is no function to call for {folder}")


def load(spec: str, tensor: TensorSpec, into: Path, **shapes: tuple[int, ...]) -> LoadedSamples:
    border = Signature(inputs=(tensor,), outputs=())
    return load_samples(spec, border, into=into / "into", shapes=shapes, constants=(), call_function=no_function)


def refused(spec: str, tensor: TensorSpec, into: Path) -> CalibrationError:
    with pytest.raises(CalibrationError) as caught:
        load(spec, tensor, into)
    assert caught.value.hint
    return caught.value


def read(loaded: LoadedSamples) -> "np.ndarray[Any, np.dtype[Any]]":
    return np.concatenate([np.asarray(feeds["image"]) for feeds in SampleFolder(loaded.folder)])


def photos(folder: Path, height: int = 6, width: int = 4, mode: str = "RGB") -> tuple[Path, "np.ndarray[Any, Any]"]:
    """Twelve lossless photos and their pixels."""
    (folder / "photos").mkdir()
    pixels = RNG.integers(0, 256, (12, height, width, len(mode))).astype(np.uint8)
    for index, one in enumerate(pixels):
        Image.fromarray(one.squeeze()).save(folder / "photos" / f"{index:02}.png")
    return folder / "photos", pixels


def test_preprocessing_is_the_stated_arithmetic(tmp_path: Path) -> None:
    folder, pixels = photos(tmp_path)
    loaded = load(f"{folder}?channels=rgb&layout=nchw&{STATED}", takes("n", 3, 6, 4), tmp_path)
    expected = (pixels / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert loaded.remarks == ()
    assert read(loaded).dtype == np.float32
    np.testing.assert_allclose(read(loaded), expected.transpose(0, 3, 1, 2), rtol=0, atol=1e-6)


def test_mean_and_std_follow_the_channel_order(tmp_path: Path) -> None:
    folder, pixels = photos(tmp_path)
    loaded = load(f"{folder}/?channels=bgr&layout=nhwc&scale=1&mean=10,20,30&std=1,2,4", takes(1, 6, 4, 3), tmp_path)
    np.testing.assert_allclose(read(loaded), (pixels[..., ::-1] - [10.0, 20.0, 30.0]) / [1, 2, 4], rtol=1e-6)


def test_gray_is_one_channel(tmp_path: Path) -> None:
    folder, pixels = photos(tmp_path, mode="L")
    loaded = load(f"{folder}?channels=gray&layout=nchw&scale=1/255&mean=0.5&std=0.5", takes("n", 1, 6, 4), tmp_path)
    np.testing.assert_allclose(read(loaded), (pixels / 127.5 - 1).reshape(12, 1, 6, 4), atol=1e-6)


def test_digit_images_agree_with_the_digit_arrays(tmp_path: Path) -> None:
    loaded = load(f"{SAMPLES}/digits/calibration_images?scale=1/255&mean=0&std=1", takes("b", 1, 8, 8), tmp_path)
    arrays = np.load(SAMPLES / "digits_torch/calibration.npz")["image"][: loaded.count]
    np.testing.assert_allclose(read(loaded), arrays, atol=0.5 / 255 + 1e-6)


def test_layout_and_channels_from_the_model_are_told(tmp_path: Path) -> None:
    folder, pixels = photos(tmp_path)
    loaded = load(f"{folder}?{PLAIN}", takes("n", 6, 4, 3), tmp_path)
    assert np.array_equal(read(loaded), pixels)
    layout, channels, raw = (remark.text for remark in loaded.remarks)
    assert layout == "layout nhwc: taken from the model's input image: float32[nx6x4x3]"
    assert channels.startswith("channels rgb: taken from the model's 3 channels")
    assert "normalisation" in raw


def test_raw_pixels_go_into_a_uint8_input_as_they_are(tmp_path: Path) -> None:
    folder, pixels = photos(tmp_path)
    loaded = load(f"{folder}?channels=rgb&layout=nhwc", takes("n", 6, 4, 3, dtype="uint8"), tmp_path)
    assert read(loaded).dtype == np.uint8
    assert np.array_equal(read(loaded), pixels)


def test_an_int8_input_takes_pixels_minus_128(tmp_path: Path) -> None:
    folder, pixels = photos(tmp_path)
    tensor = takes("n", 6, 4, 3, dtype="int8")
    loaded = load(f"{folder}?scale=1&mean=128&std=1", tensor, tmp_path)
    assert np.array_equal(read(loaded), (pixels.astype(int) - 128).astype(np.int8))
    assert "mean=128" in refused(f"{folder}?{PLAIN}", tensor, tmp_path / "b").hint
    assert "mean=128" in refused(f"{folder}", tensor, tmp_path / "c").hint


@pytest.mark.parametrize("query", ["scale=1&mean=128&std=1", "scale=2&mean=0&std=1", "scale=1/255&mean=0&std=1"])
def test_values_that_an_integer_input_does_not_hold(tmp_path: Path, query: str) -> None:
    folder, _ = photos(tmp_path)
    error = refused(f"{folder}?{query}", takes("n", 6, 4, 3, dtype="uint8"), tmp_path)
    assert "image takes uint8" in error.message


def test_a_batch_of_images_is_stacked(tmp_path: Path) -> None:
    folder, pixels = photos(tmp_path)
    loaded = load(f"{folder}?layout=nhwc&{PLAIN}", takes(5, 6, 4, 3), tmp_path)
    assert loaded.count == 2
    assert np.array_equal(read(loaded), pixels[:10])
    assert "2 rows were left over from the last batch and dropped" in [remark.text for remark in loaded.remarks]


def test_subfolders_are_read_and_hidden_files_are_not(tmp_path: Path) -> None:
    folder, _ = photos(tmp_path)
    (folder / "more").mkdir()
    (folder / "00.png").rename(folder / "more" / "zero.PNG")
    (folder / "._01.png").write_bytes(b"resource fork")
    (folder / "photo.tiff").write_bytes(b"II")
    loaded = load(f"{folder}?channels=rgb&layout=nhwc&{PLAIN}", takes(1, 6, 4, 3), tmp_path)
    assert loaded.count == 12
    assert "1 files beside the 12 images were not used (.tiff)" in [remark.text for remark in loaded.remarks]


# --- resize


def flags(folder: Path) -> Path:
    """Wide images: red, green and blue thirds."""
    (folder / "flags").mkdir()
    for index in range(2):
        pixels = np.zeros((10, 30, 3), np.uint8)
        for third in range(3):
            pixels[:, third * 10 : third * 10 + 10, third] = 200 + index
        Image.fromarray(pixels).save(folder / "flags" / f"{index}.png")
    return folder / "flags"


def resized(tmp_path: Path, rule: str) -> "np.ndarray[Any, np.dtype[Any]]":
    spec = f"{flags(tmp_path)}?size=10x10&resize={rule}&channels=rgb&layout=nhwc&{PLAIN}"
    image: np.ndarray[Any, np.dtype[Any]] = read(load(spec, takes("n", "h", "w", 3), tmp_path))[0]
    return image


def test_crop_keeps_the_middle(tmp_path: Path) -> None:
    image = resized(tmp_path, "crop")
    assert np.array_equal(image, np.broadcast_to([0, 200, 0], (10, 10, 3)))


def test_stretch_keeps_everything(tmp_path: Path) -> None:
    image = resized(tmp_path, "stretch")
    assert image[:, 0].tolist() == [[200, 0, 0]] * 10
    assert image[:, 5].tolist() == [[0, 200, 0]] * 10
    assert image[:, 9].tolist() == [[0, 0, 200]] * 10


def test_pad_keeps_the_aspect_on_black(tmp_path: Path) -> None:
    image = resized(tmp_path, "pad")
    assert (image[:3] == 0).all()
    assert (image[7:] == 0).all()
    assert image[4, 0].tolist() == [200, 0, 0]
    assert image[4, 9].tolist() == [0, 0, 200]


def test_another_size_without_a_rule_is_refused(tmp_path: Path) -> None:
    error = refused(f"{flags(tmp_path)}?{PLAIN}", takes("n", 10, 10, 3), tmp_path)
    assert "0.png is 10x30, the input 10x10, and resize is not stated" in error.message
    assert "size=10x10&resize=crop&scale=1&mean=0&std=1" in error.hint


# --- what is not stated, or wrongly


def test_the_hint_is_a_spec_that_works(tmp_path: Path) -> None:
    folder, _ = photos(tmp_path, 30, 40)
    error = refused(str(folder), takes("n", "c", "h", "w"), tmp_path)
    spec = error.hint.split("'")[1]
    again = refused(spec, takes("n", "c", "h", "w"), tmp_path / "b")
    final = again.hint.split("'")[1]
    assert load(final, takes("n", "c", "h", "w"), tmp_path / "c").count == 12


@pytest.mark.parametrize(
    ("query", "dims", "message", "hint"),
    [
        ("", ("n", 3, 6, 4), "scale, mean, std not stated", "?size=6x4&resize=crop&scale=1/255&mean=0&std=1'"),
        ("scale=1/255", ("n", 3, 6, 4), "mean, std not stated", "scale=1/255&mean=0&std=1"),
        (PLAIN, ("n", 3, "h", "w"), "the size is not stated and the model leaves it open (hxw)", "size=224x224"),
        (PLAIN, ("n", 3, 6, 3), "the layout is not stated", "layout=nchw"),
        (PLAIN, ("n", 5, 6, 4), "the layout is not stated", "layout=nchw"),
        (f"{PLAIN}&layout=nchw", ("n", "c", 6, 4), "the channels are not stated", "channels=rgb"),
        (f"{PLAIN}&layout=nhwc", ("n", 3, 6, 4), "layout=nhwc gives 4 channels", "layout=nchw"),
        (f"{PLAIN}&channels=gray", ("n", 3, 6, 4), "channels=gray is 1 channels, the model takes 3", "channels=rgb"),
        (f"{PLAIN}&channels=rbg", ("n", 3, 6, 4), "no channels 'rbg'", "did you mean rgb or bgr?"),
        (f"{PLAIN}&resize=fit", ("n", 3, 6, 4), "no resize 'fit'", "crop, pad, stretch"),
        (f"{PLAIN}&size=4x6", ("n", 3, 6, 4), "size=4x6 is not what the model takes: 6x4", "size=6x4"),
        (f"{PLAIN}&size=big", ("n", 3, 6, 4), "size=big is no size", "size=HEIGHTxWIDTH"),
        (f"{PLAIN}&size=0", ("n", 3, 6, 4), "size=0 is no size", "size=HEIGHTxWIDTH"),
        ("scale=1/0&mean=0&std=1", ("n", 3, 6, 4), "scale=1/0 is not one number", "scale=1/255"),
        ("scale=1&mean=1,2&std=1", ("n", 3, 6, 4), "mean=1,2 is not one number or 3", "mean=0"),
        ("scale=1&mean=0&std=0", ("n", 3, 6, 4), "scale and std cannot be 0", "std=1"),
        ("scale=nan&mean=0&std=1", ("n", 3, 6, 4), "scale=nan is not one number", "scale=1/255"),
        ("scal=1", ("n", 3, 6, 4), "no preprocessing 'scal'", "did you mean scale"),
        ("scale=1&scale=2", ("n", 3, 6, 4), "'scale' needs one value", "scale=VALUE"),
        (PLAIN, ("n", 10), "images are 4-D", "package.module:function"),
    ],
)
def test_what_is_missing_or_wrong(
    tmp_path: Path, query: str, dims: tuple[int | str, ...], message: str, hint: str
) -> None:
    folder, _ = photos(tmp_path)
    error = refused(f"{folder}?{query}" if query else str(folder), takes(*dims), tmp_path)
    assert message in error.message
    assert hint in error.hint


def test_images_cannot_feed_two_inputs(tmp_path: Path) -> None:
    folder, _ = photos(tmp_path)
    tensor = takes("n", 3, 6, 4)
    both = Signature(inputs=(tensor, msgspec.structs.replace(tensor, name="mask")), outputs=())
    with pytest.raises(CalibrationError, match="images feed one input, the model takes 2: image, mask"):
        load_samples(
            f"{folder}?{PLAIN}", both, into=tmp_path / "into", shapes={}, constants=(), call_function=no_function
        )


# --- files


@pytest.mark.parametrize("damage", [b"", b"random bytes of no image at all", None])
def test_damaged_images_are_named(tmp_path: Path, damage: bytes | None) -> None:
    folder, _ = photos(tmp_path)
    file = folder / "07.png"
    file.write_bytes(file.read_bytes()[:90] if damage is None else damage)
    assert f"{file} cannot be read as an image" in refused(f"{folder}?{PLAIN}", takes("n", 3, 6, 4), tmp_path).message


def test_deep_images_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    folder, _ = photos(tmp_path, mode="L")
    Image.fromarray(np.full((6, 4), 40000, np.uint16)).save(folder / "03.png")
    error = refused(f"{folder}?{PLAIN}", takes("n", 1, 6, 4), tmp_path)
    assert "03.png has more than 8 bits per channel" in error.message


def test_transparency_and_orientation_are_told(tmp_path: Path) -> None:
    folder, pixels = photos(tmp_path)
    Image.fromarray(pixels[0]).convert("RGBA").save(folder / "00.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    Image.fromarray(np.rot90(pixels[1])).save(folder / "01.png", exif=exif)
    loaded = load(f"{folder}?channels=rgb&layout=nhwc&{PLAIN}", takes("n", 6, 4, 3), tmp_path)
    assert {"transparency was dropped", "turned upright by the EXIF orientation"} <= {
        note.text for note in loaded.remarks
    }
    assert np.array_equal(read(loaded), pixels)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "bmp", "webp", "png"])
def test_every_image_format_is_read(tmp_path: Path, suffix: str) -> None:
    for index in range(10):
        Image.new("RGB", (4, 6), (20 * index, 30, 200)).save(tmp_path / f"{index}.{suffix}")
    spec = f"{tmp_path}?channels=rgb&layout=nhwc&{PLAIN}"
    (tmp_path / "out").mkdir()
    found = read(load(spec, takes("n", 6, 4, 3), tmp_path / "out"))
    assert np.abs(found[:, 3, 2] - [[20 * index, 30, 200] for index in range(10)]).max() <= 4


def test_shapes_come_from_the_query(tmp_path: Path) -> None:
    folder, _ = photos(tmp_path)
    border = Signature(inputs=(takes("n", 3, "h", "w"),), outputs=())
    spec = f"{folder}?size=320&resize=pad&{PLAIN}"
    assert infer_shapes(spec, border, (), call_function=no_function) == {"image": (1, 3, 320, 320)}
