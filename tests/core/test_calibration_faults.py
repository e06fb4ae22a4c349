"""Planted faults in calibration data: each is refused with its values and one thing to do, or told as a warning."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hub._calibration import LoadedSamples, load_samples
from hub.spec import CalibrationError, Dim, DType, Signature, TensorSpec, write_sample

RNG = np.random.default_rng(5)
Hub = Callable[..., Any]
GOOD = RNG.standard_normal((12, 3)).astype(np.float32)
X = TensorSpec(name="x", dtype=DType.FLOAT32, shape=(Dim.of("n"), Dim.of(3)))
IDS = TensorSpec(name="ids", dtype=DType.INT32, shape=(Dim.of("n"), Dim.of("s")), value_range=(0, 99))
MASK = TensorSpec(name="mask", dtype=DType.INT32, shape=(Dim.of("n"), Dim.of("s")))


def no_function(reference: str, folder: Path) -> int:
    assert reference == "my.data:samples"
    return sum(1 for _ in folder.iterdir())


def load(spec: Path | str, tmp_path: Path, *inputs: TensorSpec, **shapes: tuple[int, ...]) -> LoadedSamples:
    return load_samples(
        str(spec),
        Signature(inputs=inputs or (X,), outputs=()),
        into=tmp_path / "into",
        shapes=shapes,
        constants=(),
        call_function=no_function,
    )


def refused(spec: Path | str, tmp_path: Path, *inputs: TensorSpec, **shapes: tuple[int, ...]) -> CalibrationError:
    with pytest.raises(CalibrationError) as caught:
        load(spec, tmp_path, *inputs, **shapes)
    assert caught.value.hint
    assert not caught.value.hint.endswith(" ")
    return caught.value


def arrays(tmp_path: Path, **data: Any) -> Path:
    np.savez(tmp_path / "data.npz", **data)
    return tmp_path / "data.npz"


def with_range(low: float, high: float) -> TensorSpec:
    return msgspec.structs.replace(X, value_range=(low, high))


# --- what the spec names


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("", "empty", "data.npz"),
        ("nothing/here.npz", "no file, folder or function 'nothing/here.npz'", "data.npz"),
        ("a b:c", "no file, folder or function", "package.module:function"),
        ("data.csv", "no calibration data that hub reads (.csv)", "data.npz"),
        ("photo.png", "no calibration data that hub reads (.png)", "name its folder"),
        ("empty", "no samples", "package.module:function"),
        ("dta.npz", "no file, folder or function", "did you mean data.npz or data.csv? (in ./)"),
        ("both", "1 .npz files and 1 images", "one kind"),
        ("data.npz?size=3", "preprocessing (size=3) is for folders of images", "without the query"),
    ],
)
def test_specs_that_name_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    for name in ("data.csv", "photo.png", "data.npz", "both/a.npz", "both/b.png", "empty/.hidden.npz"):
        (tmp_path / name).write_bytes(b"")
    error = refused(spec, tmp_path)
    assert message in error.message
    assert hint in error.hint


def test_a_function_without_samples(tmp_path: Path) -> None:
    error = refused("my.data:samples", tmp_path)
    assert error.message == "my.data:samples gave no samples"


# --- files


@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "random", "flipped"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str, damage: str) -> None:
    file = tmp_path / f"data.{suffix}"
    if suffix == "npz":
        np.savez(file, x=GOOD)
    else:
        np.save(file, GOOD)
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    damaged = {"empty": b"", "truncated": whole[:middle], "random": RNG.bytes(500), "flipped": flipped}
    if (suffix, damage) == ("npy", "flipped"):
        damaged["flipped"] = whole.replace(b"NUMPY", b"NUMPX")  # .npy has no checksum: damage what can be noticed
    file.write_bytes(damaged[damage])
    error = refused(file, tmp_path)
    assert str(file) in error.message
    assert "cannot be read" in error.message


def test_a_damaged_file_in_a_folder_is_named(tmp_path: Path) -> None:
    write_sample(tmp_path / "data", 0, {"x": GOOD})
    (tmp_path / "data" / "00000001.npz").write_bytes(b"PK\x03\x04")
    assert "00000001.npz" in refused(tmp_path / "data", tmp_path).message


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_objects_are_never_unpickled(tmp_path: Path, suffix: str) -> None:
    array = np.array([_Armed(tmp_path / "executed")] * 3, dtype=object)
    file = tmp_path / f"data.{suffix}"
    if suffix == "npz":
        np.savez(file, allow_pickle=True, x=array)
    else:
        np.save(file, array, allow_pickle=True)
    assert "Python objects" in refused(file, tmp_path).message
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(array))  # noqa: S301 shows that the trap would have gone off
    assert (tmp_path / "executed").exists()


class _Armed:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_bare_pickle_is_never_unpickled(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    file.write_bytes(pickle.dumps(_Armed(tmp_path / "executed")))
    assert "cannot be read" in refused(file, tmp_path).message
    assert not (tmp_path / "executed").exists()


# --- names


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (["X_"], "has no array x; it has X_", "the model takes x"),
        (["arr_0", "arr_1"], "has no array x; it has arr_0, arr_1", "the model takes x"),
        (["label"], "has no array x; it has no other array", "the model takes x"),
    ],
)
def test_wrong_names(tmp_path: Path, names: list[str], message: str, hint: str) -> None:
    error = refused(arrays(tmp_path, **dict.fromkeys(names, GOOD)), tmp_path)
    assert message in error.message
    assert hint in error.hint


def test_a_near_name_is_suggested(tmp_path: Path) -> None:
    ids = np.arange(36).reshape(12, 3)
    error = refused(arrays(tmp_path, ids=ids, masks=ids), tmp_path, IDS, MASK)
    assert "has no array mask; it has masks" in error.message
    assert error.hint.startswith("did you mean masks for mask? the model takes ids, mask")


def test_an_array_that_is_no_input_is_told(tmp_path: Path) -> None:
    loaded = load(arrays(tmp_path, x=GOOD, weights=GOOD), tmp_path)
    assert [remark.text for remark in loaded.remarks] == [
        "the array weights in the data is no input of the model (x) and was not used"
    ]


def test_npy_cannot_feed_two_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", GOOD)
    error = refused(tmp_path / "d.npy", tmp_path, IDS, MASK)
    assert "the model takes 2 inputs: ids, mask" in error.message
    assert "np.savez" in error.hint


# --- shapes


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((12, 4), "give x as rows, Nx3"),
        ((3,), "add the batch dimension"),
        ((12, 1, 1, 3), "give x as rows, Nx3"),
        ((), "give x as rows, Nx3"),
    ],
)
def test_wrong_shapes(tmp_path: Path, shape: tuple[int, ...], hint: str) -> None:
    error = refused(arrays(tmp_path, x=np.ones(shape, np.float32)), tmp_path)
    text = "x".join(map(str, shape)) or "scalar"
    assert error.message == f"data.npz: x has shape {text}, the model takes nx3"
    assert hint in error.hint


@pytest.mark.parametrize(
    ("takes", "given", "hint"),
    [
        ((3, 8, 9), (12, 8, 9, 3), "array.transpose(0, 3, 1, 2)"),
        ((8, 9, 3), (12, 3, 8, 9), "array.transpose(0, 2, 3, 1)"),
    ],
)
def test_the_other_layout_is_recognised(
    tmp_path: Path, takes: tuple[int, ...], given: tuple[int, ...], hint: str
) -> None:
    image = TensorSpec(name="x", dtype=DType.FLOAT32, shape=(Dim.of("n"), *map(Dim.of, takes)))
    assert hint in refused(arrays(tmp_path, x=np.ones(given, np.float32)), tmp_path, image).hint


def test_a_size_beyond_the_models_bound(tmp_path: Path) -> None:
    bounded = msgspec.structs.replace(MASK, shape=(Dim.of("n"), Dim(symbol="s", low=2, high=8)))
    data = arrays(tmp_path, mask=np.ones((12, 9), np.int32))
    assert "mask has shape 12x9" in refused(data, tmp_path, bounded).message


def test_a_given_shape_binds(tmp_path: Path) -> None:
    data = arrays(tmp_path, mask=np.ones((12, 9), np.int32))
    assert "the model takes 1x8" in refused(data, tmp_path, MASK, mask=(1, 8)).message


def test_inputs_with_different_counts(tmp_path: Path) -> None:
    ids = np.arange(36).reshape(12, 3)
    error = refused(arrays(tmp_path, ids=ids, mask=ids[:7]), tmp_path, IDS, MASK)
    assert "ids 12 (shape 12x3), mask 7 (shape 7x3)" in error.message


def test_one_symbol_with_two_sizes(tmp_path: Path) -> None:
    ids = np.arange(36).reshape(12, 3)
    error = refused(arrays(tmp_path, ids=ids, mask=ids[:, :2]), tmp_path, IDS, MASK)
    assert "s is 3 in ids and 2 in mask of the same sample" in error.message


def test_no_samples(tmp_path: Path) -> None:
    assert (
        "holds no samples; the model takes x: float32[nx3]" in refused(arrays(tmp_path, x=GOOD[:0]), tmp_path).message
    )


def test_fewer_rows_than_a_batch(tmp_path: Path) -> None:
    assert "(12 rows are less than a batch)" in refused(arrays(tmp_path, x=GOOD), tmp_path, x=(16, 3)).message


def test_labels_of_another_length(tmp_path: Path) -> None:
    error = refused(arrays(tmp_path, x=GOOD, label=np.arange(11)), tmp_path)
    assert "11 labels for 12 rows" in error.message


def test_labels_that_are_no_classes_are_told(tmp_path: Path) -> None:
    loaded = load(arrays(tmp_path, x=GOOD, label=np.linspace(0, 1, 12)), tmp_path)
    assert loaded.labels == ()
    assert [remark.text for remark in loaded.remarks] == ["labels in data.npz are float64, no integers: not used"]


def test_labels_of_some_files_are_told(tmp_path: Path) -> None:
    write_sample(tmp_path / "data", 0, {"x": GOOD[:6], "label": np.arange(6)})
    write_sample(tmp_path / "data", 1, {"x": GOOD[6:]})
    loaded = load(tmp_path / "data", tmp_path)
    assert loaded.labels == ()
    assert [remark.text for remark in loaded.remarks] == ["labels were not used: only 1 of 2 files have them"]


# --- values


def test_pixels_for_a_float_input(tmp_path: Path) -> None:
    error = refused(arrays(tmp_path, x=np.arange(36, dtype=np.uint8).reshape(12, 3)), tmp_path)
    assert "x is uint8, the model takes float32: the scaling is missing" in error.message
    assert "array.astype('float32') / 255" in error.hint


@pytest.mark.parametrize(("tensor", "dtype"), [(IDS, "float32"), (IDS, "complex64"), (X, "complex64"), (IDS, "U4")])
def test_other_families_of_numbers(tmp_path: Path, tensor: TensorSpec, dtype: str) -> None:
    error = refused(arrays(tmp_path, **{tensor.name: np.ones((12, 3)).astype(dtype)}), tmp_path, tensor)
    assert f"the model takes {tensor.dtype.value}" in error.message


def test_integers_that_do_not_fit(tmp_path: Path) -> None:
    mask = np.arange(36).reshape(12, 3)
    mask[4, 1] = 2**31
    error = refused(arrays(tmp_path, mask=mask), tmp_path, MASK)
    assert "data.npz, sample 4: mask is 12 to 2147483648, which int32 does not hold" in error.message


def test_floats_that_do_not_fit(tmp_path: Path) -> None:
    error = refused(arrays(tmp_path, x=GOOD.astype(np.float64) * 1e39), tmp_path)
    assert "which float32 does not hold" in error.message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    bad = GOOD.copy()
    bad[7, 2] = value
    error = refused(arrays(tmp_path, x=bad), tmp_path)
    assert "data.npz, sample 7: x holds 1 values that are NaN or Inf, the first at [0, 2]" in error.message


@pytest.mark.parametrize("token", [-1, 100])
def test_tokens_outside_the_vocabulary(tmp_path: Path, token: int) -> None:
    ids = np.arange(36, dtype=np.int32).reshape(12, 3)
    ids[5, 0] = token
    error = refused(arrays(tmp_path, ids=ids), tmp_path, IDS)
    assert re.search(r"sample 5: ids holds -?\d+ to \d+, the model takes 0 to 99", error.message)


def test_an_input_with_one_value(tmp_path: Path) -> None:
    error = refused(arrays(tmp_path, x=np.zeros_like(GOOD)), tmp_path)
    assert "x is 0 throughout, in all 12 samples" in error.message
    assert "--constant x=0" in error.hint


def test_identical_samples(tmp_path: Path) -> None:
    assert "all 12 samples are identical" in refused(arrays(tmp_path, x=np.repeat(GOOD[:1], 12, 0)), tmp_path).message


def test_integers_with_one_value_are_told(tmp_path: Path) -> None:
    ids = np.arange(36).reshape(12, 3).astype(np.int32)
    loaded = load(arrays(tmp_path, ids=ids, mask=np.ones_like(ids)), tmp_path, IDS, MASK)
    (line,) = (remark.text for remark in loaded.remarks)
    assert line.startswith("every value of mask is 1, in all 12 samples")
    assert line.endswith("freeze it: --constant mask=1")


def warned(tmp_path: Path, data: Any, tensor: TensorSpec = X) -> tuple[str, ...]:
    loaded = load(arrays(tmp_path, **{tensor.name: data}), tmp_path, tensor)
    return tuple(remark.text for remark in loaded.remarks)


def test_good_data_gives_no_warning(tmp_path: Path) -> None:
    assert warned(tmp_path, GOOD, with_range(-4, 4)) == ()


def test_blank_samples_are_told(tmp_path: Path) -> None:
    blank = GOOD.copy()
    blank[3], blank[8] = 0.5, -0.5
    assert warned(tmp_path, blank) == ("2 of 12 samples of x are one constant each, the first data.npz, sample 3",)


def test_duplicates_are_counted(tmp_path: Path) -> None:
    assert warned(tmp_path, GOOD[[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1]]) == ("3 of 12 samples are duplicates of others",)


def test_few_samples_are_told(tmp_path: Path) -> None:
    (line,) = warned(tmp_path, GOOD[:9])
    assert line.startswith("9 samples are few")


def test_forgotten_normalisation_is_told(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (12, 3)).astype(np.float32)
    (line,) = warned(tmp_path, pixels)
    assert "whole numbers" in line
    assert "normalisation of the training forgotten" in line


def test_pixels_that_the_model_expects_are_not_told(tmp_path: Path) -> None:
    assert warned(tmp_path, RNG.integers(0, 256, (12, 3)).astype(np.float32), with_range(0, 255)) == ()


def test_data_outside_of_the_expected_range_is_told(tmp_path: Path) -> None:
    (line,) = warned(tmp_path, np.abs(GOOD) * 100, with_range(0, 1))
    assert "the model expects 0 to 1" in line
    assert "of the values lie outside; is a scaling missing?" in line


def test_data_that_was_scaled_twice_is_told(tmp_path: Path) -> None:
    (line,) = warned(tmp_path, np.abs(GOOD) / 255, with_range(0, 255))
    assert "small part of it; was it scaled twice?" in line


def test_a_share_below_one_percent_outside_is_let_pass(tmp_path: Path) -> None:
    wide = TensorSpec(name="x", dtype=DType.FLOAT32, shape=(Dim.of("n"), Dim.of(100)), value_range=(0, 1))
    data = RNG.uniform(size=(12, 100)).astype(np.float32)
    data[0, :12] = 1.5
    assert warned(tmp_path, data, wide) == ()
    data[0, 12] = 1.5
    (tmp_path / "again").mkdir()
    assert len(warned(tmp_path / "again", data, wide)) == 1


def test_string_inputs_are_refused(tmp_path: Path) -> None:
    text = TensorSpec(name="x", dtype=DType.STRING, shape=(Dim.of("n"), Dim.of(3)))
    assert "hub feeds numbers only" in refused(arrays(tmp_path, x=GOOD), tmp_path, text).message


def test_a_model_without_inputs(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="the model takes no input"):
        load_samples(
            str(arrays(tmp_path, x=GOOD)),
            Signature(inputs=(X,), outputs=()),
            into=tmp_path / "into",
            shapes={},
            constants={"x"},
            call_function=no_function,
        )


def test_a_model_runs_on_data_that_would_not_calibrate(hub: Hub, toy: Path, tmp_path: Path) -> None:
    """Only ranges need more than one value: zeros and one sample twice are good enough to be run on."""
    zeros = arrays(tmp_path, x=np.zeros((4, 6), np.float32))
    ran = hub("run", toy, "--data", zeros, "-o", tmp_path / "out.npz", "--json")
    assert (ran.status, ran.json["samples"]) == (0, 4)
    words = ("--to", "toybin", "--int8", "--calibration", zeros, "-o", tmp_path / "out.toybin", "--json")
    assert "that is no range to calibrate" in hub("convert", toy, *words).error["message"]
    words = tuple("--fp16" if word == "--int8" else word for word in words)
    assert hub("convert", toy, *words).status == 0
