"""Every form of calibration data, read with the sample data and with arrays made here."""

import hashlib
import zipfile
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub._calibration import LoadedSamples, infer_shapes, load_samples, sources, split
from hub.spec import CalibrationError, Dim, DType, SampleFolder, ShapeNeeded, Signature, TensorSpec, write_sample

SAMPLES = Path(__file__).parents[2] / "samples"
RNG = np.random.default_rng(3)


def signature(**inputs: tuple[Any, ...]) -> Signature:
    """`x=("float32", "batch", 10)`: dtype, then dimensions."""
    specs = (
        TensorSpec(name=name, dtype=DType(dtype), shape=tuple(map(Dim.of, dims)))
        for name, (dtype, *dims) in inputs.items()
    )
    return Signature(inputs=tuple(specs), outputs=())


def no_function(reference: str, folder: Path) -> int:
    raise AssertionError(f"{reference} is no function to call for {folder}")


def load(
    spec: Path | str,
    takes: Signature,
    into: Path,
    shapes: dict[str, tuple[int, ...]] | None = None,
    constants: Container[str] = (),
) -> LoadedSamples:
    return load_samples(
        str(spec), takes, into=into / "samples", shapes=shapes or {}, constants=constants, call_function=no_function
    )


def normal(*shape: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return RNG.standard_normal(shape).astype(np.float32)


TORCH_DIGITS = signature(image=("float32", "batch", 1, 8, 8))


def test_npz_gives_one_sample_per_row_bit_for_bit(tmp_path: Path) -> None:
    loaded = load(SAMPLES / "digits_torch/calibration.npz", TORCH_DIGITS, tmp_path)
    rows = np.load(SAMPLES / "digits_torch/calibration.npz")["image"]
    read = [feeds["image"] for feeds in SampleFolder(loaded.folder)]
    assert (loaded.count, len(read), loaded.remarks, loaded.labels) == (200, 200, (), ())
    assert {array.shape for array in read} == {(1, 1, 8, 8)}
    assert np.array_equal(np.concatenate(read), rows)


def test_labels_come_along(tmp_path: Path) -> None:
    loaded = load(SAMPLES / "digits_keras/test.npz", signature(image=("float32", "batch", 8, 8, 1)), tmp_path)
    assert loaded.labels == tuple(np.load(SAMPLES / "digits_keras/test.npz")["label"].tolist())


def test_a_batch_size_groups_rows_and_keeps_their_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=normal(22, 3), labels=np.arange(22))
    loaded = load(tmp_path / "d.npz", signature(x=("float32", "n", 3)), tmp_path, {"x": (4, 3)})
    assert loaded.count == 5
    assert loaded.labels == tuple(range(20))
    assert "2 rows were left over from the last batch and dropped" in [remark.text for remark in loaded.remarks]


def test_a_label_that_is_an_input_is_an_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=normal(12, 3), label=np.arange(12))
    loaded = load(tmp_path / "d.npz", signature(x=("float32", 1, 3), label=("int64", 1)), tmp_path)
    assert loaded.labels == ()
    assert list(next(iter(SampleFolder(loaded.folder)))) == ["x", "label"]


def test_npy_feeds_a_single_input(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", normal(12, 3))
    assert load(tmp_path / "d.npy", signature(x=("float32", 1, 3)), tmp_path).count == 12


def test_an_unnamed_array_feeds_a_single_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", normal(12, 3))
    assert load(tmp_path / "d.npz", signature(x=("float32", 1, 3)), tmp_path).count == 12


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_large_arrays_are_mapped_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rows, takes, file = normal(12, 3), signature(x=("float32", 1, 3)), tmp_path / f"d.{kind}"
    if kind == "npz":
        np.savez_compressed(file, x=rows)
    else:
        np.save(file, rows)
    small = load(file, takes, tmp_path / "a")
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 0)
    assert load(file, takes, tmp_path / "b").fingerprint == small.fingerprint


def test_fortran_order_and_big_endian_are_the_same_data(tmp_path: Path) -> None:
    rows, takes = normal(12, 3, 4), signature(x=("float32", 1, 3, 4))
    np.save(tmp_path / "c.npy", rows)
    np.save(tmp_path / "f.npy", np.asfortranarray(rows))
    np.save(tmp_path / "b.npy", rows.astype(">f4"))
    loaded = [load(tmp_path / f"{name}.npy", takes, tmp_path / name) for name in "cfb"]
    assert len({each.fingerprint for each in loaded}) == 1
    assert all(each.remarks == () for each in loaded)


def test_folder_of_npz_mixes_single_samples_and_rows_in_name_order(tmp_path: Path) -> None:
    data = tmp_path / "data"
    rows = normal(12, 3)
    write_sample(data, 0, {"x": rows[:1]})
    write_sample(data, 1, {"x": rows[1:11]})
    write_sample(data, 2, {"x": rows[11:]})
    (data / "readme.txt").write_text("what this is")
    loaded = load(data, signature(x=("float32", "n", 3)), tmp_path)
    assert loaded.count == 12
    assert [remark.text for remark in loaded.remarks] == ["1 files beside the 3 .npz files were not used (.txt)"]
    assert np.array_equal(np.concatenate([feeds["x"] for feeds in SampleFolder(loaded.folder)]), rows)


def test_state_beside_rows_counts_the_same(tmp_path: Path) -> None:
    takes = signature(x=("float32", "b", 512), state=("float32", 2, "b", 16), sr=("int64",))
    np.savez(tmp_path / "d.npz", x=normal(12, 512), state=normal(12, 2, 1, 16), sr=np.full(12, 16000))
    loaded = load(tmp_path / "d.npz", takes, tmp_path)
    assert {n: a.shape for n, a in next(iter(SampleFolder(loaded.folder))).items()} == {
        "x": (1, 512),
        "state": (2, 1, 16),
        "sr": (),
    }
    assert [line for line in loaded.remarks if "--constant sr=16000" in line.text]


def test_a_file_of_its_own_may_be_one_whole_batch(tmp_path: Path) -> None:
    takes = signature(x=("float32", "b", 8), state=("float32", 2, "b", 16))
    for index in range(2):
        write_sample(tmp_path / "data", index, {"x": normal(4, 8), "state": normal(2, 4, 16)})
    assert load(tmp_path / "data", takes, tmp_path).count == 2


def test_frozen_inputs_need_no_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=normal(12, 3), sr=np.zeros(3))
    takes = signature(x=("float32", 1, 3), sr=("int64",))
    assert load(tmp_path / "d.npz", takes, tmp_path, constants={"sr"}).count == 12


def test_an_input_may_be_named_like_an_argument_of_numpy(tmp_path: Path) -> None:
    takes = signature(file=("float32", 1, 3), allow_pickle=("float32", 1, 3))
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        for name in ("file", "allow_pickle"):
            np.save(tmp_path / "one.npy", normal(12, 3))
            archive.write(tmp_path / "one.npy", f"{name}.npy")
    assert load(tmp_path / "d.npz", takes, tmp_path).count == 12


def test_a_function_is_called_through_the_worker(tmp_path: Path) -> None:
    called = []

    def call(reference: str, folder: Path) -> int:
        called.append(reference)
        for index in range(11):
            write_sample(folder, index, {"x": normal(1, 3), "label": np.array(index)})
        return 11

    loaded = load_samples(
        "my.data:samples",
        signature(x=("float32", "n", 3)),
        into=tmp_path / "s",
        shapes={},
        constants=(),
        call_function=call,
    )
    assert (called, loaded.count, loaded.labels) == (["my.data:samples"], 11, tuple(range(11)))


def test_nothing_is_left_beside_the_samples(tmp_path: Path) -> None:
    loaded = load(SAMPLES / "digits_torch/calibration.npz", TORCH_DIGITS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [Path(loaded.folder).name]


def test_the_fingerprint_is_what_it_says(tmp_path: Path) -> None:
    rows = normal(10, 3)
    np.savez(tmp_path / "d.npz", x=rows)
    each = (hashlib.sha256(b"x\0float32\0(1, 3)\0" + row.tobytes()).digest() for row in rows)
    loaded = load(tmp_path / "d.npz", signature(x=("float32", 1, 3)), tmp_path)
    assert loaded.fingerprint == hashlib.sha256(b"".join(each)).hexdigest()


def test_the_fingerprint_follows_the_content_alone(tmp_path: Path) -> None:
    rows, takes = normal(12, 3), signature(x=("float32", 1, 3))
    np.savez(tmp_path / "a.npz", x=rows)
    np.savez_compressed(tmp_path / "b.npz", x=rows, label=np.arange(12))
    np.savez(tmp_path / "c.npz", x=rows[::-1])
    found = [load(tmp_path / f"{name}.npz", takes, tmp_path / name).fingerprint for name in "abc"]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(("data", "result"), [(np.float64, "float64"), (np.float16, "float16")])
def test_float_widths_are_cast_and_told(tmp_path: Path, data: type, result: str) -> None:
    np.savez(tmp_path / "d.npz", x=normal(12, 3).astype(data))
    loaded = load(tmp_path / "d.npz", signature(x=("float32", 1, 3)), tmp_path)
    assert [remark.text for remark in loaded.remarks] == [f"x: {result} was cast to the model's float32 (12 samples)"]
    assert next(iter(SampleFolder(loaded.folder)))["x"].dtype == np.float32


def test_integer_widths_are_cast_and_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", ids=np.arange(36).reshape(12, 3))
    loaded = load(tmp_path / "d.npz", signature(ids=("int32", "n", "s")), tmp_path)
    assert [remark.text for remark in loaded.remarks] == ["ids: int64 was cast to the model's int32 (12 samples)"]


# --- shapes that the data implies


def test_shapes_come_from_the_data_with_a_batch_of_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", ids=np.arange(36).reshape(12, 3), mask=np.ones((12, 3), np.int64))
    takes = signature(ids=("int64", "b", "s"), mask=("int64", "b", "s"), fixed=("float32", 1))
    found = infer_shapes(str(tmp_path / "d.npz"), takes, {"fixed"}, call_function=no_function)
    assert found == {"ids": (1, 3), "mask": (1, 3)}


def test_shapes_of_a_static_model_need_no_data() -> None:
    spec = str(SAMPLES / "digits_torch/calibration.npz")
    assert infer_shapes(spec, signature(x=("float32", 1, 3)), (), call_function=no_function) == {}


def test_a_shape_given_fixes_the_batch(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=normal(12, 5), y=normal(12, 7))
    takes = signature(x=("float32", "b", "s"), y=("float32", "b", "t"))
    shapes: dict[str, tuple[int, ...]] = {"x": (4, 5), "y": (4, 7)}
    assert infer_shapes(str(tmp_path / "d.npz"), takes, (), call_function=no_function, shapes=shapes) == {}
    assert load(tmp_path / "d.npz", takes, tmp_path, shapes).count == 3


def test_several_shapes_are_asked_about(tmp_path: Path) -> None:
    for length in (5, 7):
        write_sample(tmp_path / "data", length, {"ids": np.arange(length)[None]})
    with pytest.raises(ShapeNeeded, match="2 different shapes: 1x5, 1x7") as caught:
        infer_shapes(str(tmp_path / "data"), signature(ids=("int64", "b", "s")), (), call_function=no_function)
    assert caught.value.hint.endswith("--shape ids=1x7")


# --- parting


def numbered(tmp_path: Path, count: int) -> LoadedSamples:
    np.savez(tmp_path / "d.npz", x=normal(count, 3), label=np.arange(count))
    return load(tmp_path / "d.npz", signature(x=("float32", 1, 3)), tmp_path)


@pytest.mark.parametrize(("count", "held"), [(2, [1]), (4, [3]), (5, [4]), (11, [4, 9]), (320, list(range(4, 320, 5)))])
def test_every_fifth_sample_is_held_out(tmp_path: Path, count: int, held: list[int]) -> None:
    loaded = numbered(tmp_path, count)
    kept, out = split(loaded, tmp_path / "parts")
    whole = [feeds["x"] for feeds in SampleFolder(loaded.folder)]
    assert list(out.labels) == held
    assert sorted(kept.labels + out.labels) == list(range(count))
    for part in (kept, out):
        found = [feeds["x"] for feeds in SampleFolder(part.folder)]
        assert len(found) == part.count == len(part.labels)
        assert all(np.array_equal(array, whole[label]) for array, label in zip(found, part.labels, strict=True))


def test_a_batch_keeps_all_of_its_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=normal(20, 3), label=np.arange(20))
    kept, out = split(load(tmp_path / "d.npz", signature(x=("float32", 4, 3)), tmp_path), tmp_path / "parts")
    assert (kept.labels, out.labels) == (tuple(range(16)), (16, 17, 18, 19))


def test_at_most_64_are_held_out_from_all_over(tmp_path: Path) -> None:
    _, out = split(numbered(tmp_path, 1000), tmp_path / "parts")
    assert out.count == 64
    assert out.labels[-1] > 950


def test_parting_is_repeatable_and_keeps_the_warnings(tmp_path: Path) -> None:
    loaded = numbered(tmp_path, 7)
    assert loaded.remarks
    first, second = (split(loaded, tmp_path / name) for name in "ab")
    assert [part.fingerprint for part in first] == [part.fingerprint for part in second]
    assert first[0].fingerprint != first[1].fingerprint
    assert {part.remarks for part in first} == {loaded.remarks}


def test_parting_copies_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(f"no links from {self} to {target}")

    linked = split(numbered(tmp_path, 7), tmp_path / "a")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    copied = split(_again(tmp_path), tmp_path / "b")
    assert [part.fingerprint for part in linked] == [part.fingerprint for part in copied]


def _again(tmp_path: Path) -> LoadedSamples:
    return load(tmp_path / "d.npz", signature(x=("float32", 1, 3)), tmp_path / "again")


def test_a_single_sample_cannot_be_parted(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="1 sample cannot be parted"):
        split(numbered(tmp_path, 1), tmp_path / "parts")
