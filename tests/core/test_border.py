"""Names, shapes, random inputs and declared changes at a model's border."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub._bindings import to_artifact, to_source
from hub._effects import check_signature
from hub._inputs import draw_samples
from hub._request import did_you_mean, parse_numerics
from hub._shapes import check_names, check_ranges, fix_shapes, range_flags
from hub.spec import (
    ConvertOptions,
    Dim,
    DimRange,
    DType,
    EffectError,
    IoBinding,
    Numerics,
    SampleFolder,
    ShapeNeeded,
    Signature,
    TensorSpec,
    UnknownName,
    UnsupportedModel,
    UsageError,
)


def tensor(name: str, *shape: int | str, dtype: DType = DType.FLOAT32, **more: Any) -> TensorSpec:
    """An input."""
    return TensorSpec(name=name, dtype=dtype, shape=tuple(map(Dim.of, shape)), **more)


def border(*inputs: TensorSpec) -> Signature:
    """A signature with these inputs."""
    return Signature(inputs=inputs, outputs=())


def test_fixed_shapes_stay_and_need_no_note() -> None:
    assert fix_shapes(border(tensor("x", 2, 3)), ConvertOptions(), {}) == ({"x": (2, 3)}, ())


def test_a_batch_alone_becomes_one_with_a_note() -> None:
    shapes, notes = fix_shapes(border(tensor("x", "n", 3), tensor("m", "n")), ConvertOptions(), {})
    assert shapes == {"x": (1, 3), "m": (1,)}
    assert [(note.text, note.hint) for note in notes] == [
        ("fixed the batch of x to 1: 1x3", "another: --shape x=..."),
        ("fixed the batch of m to 1: 1", "another: --shape m=..."),
    ]


@pytest.mark.parametrize("shape", [("n", "length"), ("n", 3, "h", "w"), (1, "length")])
def test_any_other_symbol_is_asked_for_with_the_flag_to_give(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(ShapeNeeded) as caught:
        fix_shapes(border(tensor("x", *shape)), ConvertOptions(), {})
    assert f"--shape x={'x'.join(map(str, shape))}" in caught.value.hint
    assert caught.value.code == "shape-needed"


def test_two_batches_of_different_names_are_asked_for() -> None:
    with pytest.raises(ShapeNeeded):
        fix_shapes(border(tensor("x", "n", 3), tensor("y", "m", 3)), ConvertOptions(), {})


def test_the_user_goes_before_the_data_and_the_data_before_a_guess() -> None:
    signature = border(tensor("x", "n", "t"), tensor("y", "k", "t"))
    options = ConvertOptions(shapes={"x": (4, 8)})
    shapes, notes = fix_shapes(signature, options, {"x": (9, 9), "y": (2, 8)})
    assert shapes == {"x": (4, 8), "y": (2, 8)}
    assert [note.text for note in notes] == ["fixed y to 2x8, the shape of the data"]


def test_a_symbol_has_one_size_in_all_inputs() -> None:
    signature = border(tensor("ids", "n", "t"), tensor("mask", "n", "t"), tensor("state", 2, "n", 64))
    shapes, notes = fix_shapes(signature, ConvertOptions(shapes={"ids": (4, 8)}), {})
    assert shapes == {"ids": (4, 8), "mask": (4, 8), "state": (2, 4, 64)}
    assert notes[0].text == "fixed mask to 4x8, by the sizes of the other inputs"


def test_a_frozen_input_needs_no_shape() -> None:
    shapes, _ = fix_shapes(border(tensor("x", 3), tensor("sr", "what")), ConvertOptions(constants={"sr": 16000}), {})
    assert shapes == {"x": (3,)}


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (ConvertOptions(shapes={"imgae": (1, 3)}), UnknownName, "imgae"),
        (ConvertOptions(constants={"imgae": 1}), UnknownName, "imgae"),
        (ConvertOptions(shapes={"image": (1, 4)}), UsageError, "1x4 does not fit the model's image: float32[nx3]"),
        (ConvertOptions(shapes={"image": (1, 3, 1)}), UsageError, "1x3x1"),
        (ConvertOptions(shapes={"image": (0, 3)}), UsageError, "0x3"),
    ],
)
def test_names_and_shapes_of_the_request_are_checked(
    options: ConvertOptions, kind: type[UsageError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        check_names(border(tensor("image", "n", 3)), options)
    assert words in caught.value.message
    assert "image" in caught.value.hint


def test_a_static_model_is_asked_for_no_names() -> None:
    with pytest.raises(UsageError) as caught:
        check_names(border(tensor("image", 1, 3)), ConvertOptions(shapes={"image": (2, 3)}))
    assert caught.value.hint == "leave out --shape: its sizes are fixed"


def test_did_you_mean() -> None:
    assert did_you_mean("int8-dinamic", [n.value for n in Numerics]).startswith("did you mean int8-dynamic")
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert parse_numerics("int16x8") is Numerics.INT16X8
    with pytest.raises(UnknownName) as caught:
        parse_numerics("int")
    assert caught.value.code == "unknown-name"


def drawn(folder: Path, *inputs: TensorSpec, seed: int = 0, count: int = 3) -> tuple[list[dict[str, Any]], Any]:
    """Draw samples."""
    signature = border(*inputs)
    notes = draw_samples(signature, {s.name: s.fixed_shape for s in inputs}, folder, count=count, seed=seed)
    return list(SampleFolder(folder)), notes


def test_random_inputs_fit_the_border(tmp_path: Path) -> None:
    inputs = (
        tensor("image", 1, 3, 8, 8),
        tensor("features", 4, 5),
        tensor("half", 2, 2, dtype=DType.FLOAT16),
        tensor("bytes", 6, dtype=DType.UINT8, value_range=(0, 255)),
        tensor("tokens", 1, 7, dtype=DType.INT64),
        tensor("flag", dtype=DType.BOOL),
        tensor("audio", 1, 100, value_range=(-0.5, 0.5)),
    )
    samples, notes = drawn(tmp_path, *inputs, count=20)
    assert len(samples) == 20
    for spec in inputs:
        arrays = [sample[spec.name] for sample in samples]
        assert {(array.shape, array.dtype.name) for array in arrays} == {(spec.fixed_shape, spec.dtype.value)}
    stacked = {spec.name: np.stack([sample[spec.name] for sample in samples]) for spec in inputs}
    assert stacked["image"].min() >= 0
    assert stacked["image"].max() < 1
    assert stacked["features"].min() < -1
    assert stacked["bytes"].max() > 200
    assert set(np.unique(stacked["tokens"])) == {0, 1}
    assert np.abs(stacked["audio"]).max() <= 0.5
    assert [note.text for note in notes] == ["the range of integer input tokens is unknown: drew 0 and 1"]


def test_random_inputs_hang_on_the_seed_alone(tmp_path: Path) -> None:
    spec = tensor("x", 4)
    first, again = drawn(tmp_path / "a", spec)[0], drawn(tmp_path / "b", spec)[0]
    other = drawn(tmp_path / "c", spec, seed=1)[0]
    for index in range(3):
        np.testing.assert_array_equal(first[index]["x"], again[index]["x"])
        assert not np.array_equal(first[index]["x"], other[index]["x"])
    assert not np.array_equal(first[0]["x"], first[1]["x"])


def test_what_cannot_be_drawn_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        drawn(tmp_path, tensor("text", 1, dtype=DType.STRING))
    assert "text" in caught.value.message
    assert caught.value.hint


def bound(direction: Any, source: str, target: str, **more: Any) -> IoBinding:
    """A declared change."""
    return IoBinding(direction=direction, source=source, target=target, **more)


def test_inputs_are_renamed_transposed_cast_and_dropped() -> None:
    image = np.arange(24, dtype=np.float64).reshape(1, 2, 3, 4)
    chain = [
        [bound("input", "image", "x", permutation=(0, 2, 3, 1), dtype=DType.FLOAT32), bound("input", "sr", "")],
        [bound("input", "x", "y")],
    ]
    fed = to_artifact({"image": image, "sr": np.array(1), "same": np.ones(1)}, chain)
    assert list(fed) == ["y", "same"]
    assert fed["y"].dtype == np.float32
    np.testing.assert_array_equal(fed["y"], image.transpose(0, 2, 3, 1))


def test_quantized_inputs_are_rounded_and_clipped() -> None:
    chain = [[bound("input", "x", "x", dtype=DType.INT8, scale=0.5, zero_point=-3)]]
    fed = to_artifact({"x": np.array([0, 0.24, 0.26, 1000, -1000], np.float32)}, chain)
    assert fed["x"].tolist() == [-3, -3, -2, 127, -128]
    assert fed["x"].dtype == np.int8


def test_quantized_outputs_come_back_as_real_numbers() -> None:
    chain = [[bound("output", "y", "q", dtype=DType.INT8, scale=0.25, zero_point=2)]]
    back = to_source({"q": np.array([2, 6, -128], np.int8)}, chain)
    assert back["y"].tolist() == [0, 1, -32.5]


@settings(max_examples=60, deadline=None)
@given(permutation=st.permutations(range(4)), shape=st.tuples(*[st.integers(1, 4)] * 4))
def test_a_transposition_of_outputs_is_undone(permutation: list[int], shape: tuple[int, ...]) -> None:
    source = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    chain = [[bound("output", "y", "a", permutation=tuple(permutation))], [bound("output", "a", "b")]]
    result = {"b": source.transpose(permutation)}
    np.testing.assert_array_equal(to_source(result, chain)["y"], source)


@given(place=st.integers(0, 3), permutation=st.permutations(range(3)))
def test_a_dropped_axis_is_given_back(place: int, permutation: list[int]) -> None:
    shape = [2, 3, 4]
    shape.insert(place, 1)
    source = np.arange(24, dtype=np.float32).reshape(shape)
    change = {"dropped": (place,), "permutation": tuple(permutation)}
    fed = to_artifact({"x": source}, [[bound("input", "x", "x", **change)]])
    assert fed["x"].shape == bound("input", "x", "x", **change).moved(tuple(shape))
    back = to_source({"y": fed["x"]}, [[bound("output", "y", "y", **change)]])
    np.testing.assert_array_equal(back["y"], source)


def test_an_axis_of_more_than_one_cannot_be_dropped() -> None:
    before, after = border(tensor("x", 2, 3)), border(tensor("x", 3))
    edge: Any = SimpleNamespace(id="toy.bin", keeps_dynamic=False)
    with pytest.raises(EffectError, match="axis 0 of size 2"):
        check_signature(edge, before, after, (bound("input", "x", "x", dropped=(0,)),), ConvertOptions())


def test_swapped_names_do_not_collide() -> None:
    chain = [
        [bound("output", "a", "b"), bound("output", "b", "a")],
        [bound("input", "p", "q"), bound("input", "q", "p")],
    ]
    back = to_source({"a": np.array(1), "b": np.array(2)}, chain)
    assert (int(back["a"]), int(back["b"])) == (2, 1)
    fed = to_artifact({"p": np.array(1), "q": np.array(2)}, chain)
    assert (int(fed["q"]), int(fed["p"])) == (1, 2)


def test_a_dimension_is_a_size_or_a_symbol() -> None:
    with pytest.raises(ValueError, match="a size or a symbol"):
        Dim()
    with pytest.raises(ValueError, match="symbolic"):
        _ = tensor("x", "n").fixed_shape


def test_one_symbol_has_one_range() -> None:
    signature = border(tensor("x", "n", "t"), tensor("y", "n", "t"))
    few, more = DimRange(low=1, best=4, high=4), DimRange(low=1, best=8, high=8)
    check_names(signature, ConvertOptions(ranges={"x": (few, more), "y": (few, more)}))
    with pytest.raises(UsageError, match=r"n is 1\.\.4 in x and 1\.\.8 in y") as caught:
        check_names(signature, ConvertOptions(ranges={"x": (few, few), "y": (more, few)}))
    assert "wherever the model says n" in caught.value.hint


def test_ranges_are_proposed_that_fit_the_model_and_the_request() -> None:
    bounded = TensorSpec(
        name="z", dtype=DType.FLOAT32, shape=(Dim(symbol="n"), Dim(symbol="u", low=200), Dim(symbol="v", high=16))
    )
    signature = border(tensor("x", "n", 3, "h"), tensor("y", "t", "n"), bounded)
    told = range_flags(signature, signature.inputs, ConvertOptions())
    assert "--shape x=1..4..8x3x32..64..128 --shape y=1..4..8x1..4..8 --shape z=1..4..8x200x16," in told
    given = ConvertOptions(ranges={"y": (DimRange(low=1, best=2, high=2), DimRange(low=3, best=4, high=5))})
    with pytest.raises(ShapeNeeded) as caught:
        check_ranges(border(tensor("x", "n", 3), tensor("y", "t", "n")), given)
    assert "--shape x=3..4..5x3," in caught.value.hint
