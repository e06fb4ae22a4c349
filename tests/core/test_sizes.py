"""Dimensions that stay open are proved at two sizes, and results of several files are published whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub._files import check_side_files, publish, receipt_path
from hub._inputs import repeat_samples
from hub._shapes import AFFORDABLE_ELEMENTS, fix_shapes, other_sizes
from hub.spec import (
    ConvertOptions,
    Dim,
    DType,
    OutputExists,
    OutputNotWritable,
    Signature,
    StepOutOfMemory,
    TensorSpec,
    UsageError,
)

Hub = Callable[..., Any]
Faults = Callable[..., None]


@pytest.fixture
def long(toy: Path) -> Path:
    """The toy classifier over a sequence: batch and length are open."""
    content = json.loads(toy.read_text())
    content["inputs"][0]["shape"] = ["batch", "length", 6]
    content["outputs"][0]["shape"] = ["batch", "length", 3]
    toy.write_text(json.dumps(content))
    return toy


def rows(ran: Any) -> list[str]:
    return [output["runtime"] for output in ran.json["parity"]["outputs"]]


def test_an_open_dimension_is_tried_at_two_sizes_that_hub_chooses(hub: Hub, long: Path, tmp_path: Path) -> None:
    ran = hub("convert", long, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0, ran.err
    assert [row.partition(" ")[2] for row in rows(ran)] == ["", "at x=2x128x6"]
    assert any("tried at 1x64x6" in remark["text"] for remark in ran.json["remarks"])
    assert ran.json["result"]["signature"]["inputs"][0]["shape"][1] == {"symbol": "length"}


def test_an_edge_that_bakes_a_size_in_is_found_out(hub: Hub, faults: Faults, long: Path, tmp_path: Path) -> None:
    faults("bake")
    ran = hub("convert", long, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0, ran.err
    assert [attempt["edge"] for attempt in ran.json["failed_attempts"]] == ["faulty.bake"]
    assert ran.json["route"]["edges"] == ["toy.bin"]


def test_the_size_of_real_samples_is_doubled(hub: Hub, long: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(1).standard_normal((5, 7, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=data)
    words = ("--test", tmp_path / "data.npz", "-o", tmp_path / "out.toybin", "--json")
    ran = hub("convert", long, "--to", "toybin", *words)
    assert ran.status == 0, ran.err
    assert [row.partition(" ")[2] for row in rows(ran)] == ["", "at x=2x14x6"]


def test_a_shape_that_is_given_is_not_varied(hub: Hub, long: Path, tmp_path: Path) -> None:
    ran = hub("convert", long, "--to", "toybin", "--shape", "x=2x5x6", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0, ran.err
    (warning,) = (remark["text"] for remark in ran.json["remarks"] if remark["code"] == "compared-at-one-size")
    assert "stays open in the file; it was compared at 2x5x6 only" in warning
    assert [row.partition(" ")[2] for row in rows(ran)] == [""]


def test_a_size_of_hubs_choice_is_never_fixed(hub: Hub, faults: Faults, long: Path, tmp_path: Path) -> None:
    faults("raise", "fixed-only", "fixed-too", alone=True)
    ran = hub("convert", long, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status != 0
    assert "--shape x=batchxlengthx6" in ran.error["hint"]
    assert [attempt["edge"] for attempt in ran.error["attempts"]] == ["faulty.raise", "faulty.fixed-only"]
    assert not (tmp_path / "out.toybin").exists()


def cancelling(content: dict[str, Any]) -> dict[str, Any]:
    """The difference of two large numbers: rounding is all that is left of it."""
    first, _, second, _ = content["layers"]
    first |= {"output": "h", "w": [[1e7, 1.0000001e7]] * 6, "b": [0.0, 0.0]}
    second |= {"inputs": ["h"], "output": "y", "w": [[-1.0] * 3, [1.0] * 3], "b": [0.0] * 3}
    return content | {"layers": [first, second]}


@pytest.mark.parametrize("noisy", [True, False])
def test_samples_that_prove_little_are_told(hub: Hub, faults: Faults, toy: Path, tmp_path: Path, noisy: bool) -> None:
    faults("slightly-wrong", alone=True)
    content = json.loads(toy.read_text())
    toy.write_text(json.dumps(cancelling(content) if noisy else content))
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.error["code"] == "parity"
    assert ("one rounding step of its inputs" in ran.error["message"]) is noisy
    assert "--test DATA" in ran.error["hint"]


def sizes(first: tuple[int, ...], *dims: Dim, fixed: tuple[str, ...] = ()) -> list[tuple[int, ...]]:
    spec = TensorSpec(name="x", dtype=DType.FLOAT32, shape=dims)
    return [shapes["x"] for shapes in other_sizes(Signature(inputs=(spec,), outputs=()), {"x": first}, fixed)]


def test_a_bounded_dimension_is_tried_at_both_ends() -> None:
    dims = (Dim(symbol="n", low=1, high=3), Dim(symbol="s", low=2, high=8), Dim.of(5))
    assert sizes((2, 8, 5), *dims) == [(3, 8, 5), (1, 2, 5)]
    assert sizes((1, 8, 5), *dims, fixed=("x",)) == []
    assert sizes((8,), Dim(symbol="s", high=8)) == [(4,), (1,)]


def test_an_end_that_is_not_affordable_is_not_tried() -> None:
    assert sizes((1, 100), Dim(symbol="n", high=AFFORDABLE_ELEMENTS), Dim.of(100)) == [(2, 100)]


def test_a_dimension_without_bounds_and_one_that_hangs_on_another_are_doubled() -> None:
    assert sizes((1, 64), Dim(symbol="n"), Dim(symbol="s")) == [(2, 128)]
    assert sizes((4, 8), Dim(symbol="s", low=2, high=100), Dim(symbol="2*s")) == [(8, 16)]


def test_repeated_samples_hold_two_different_ones(tmp_path: Path) -> None:
    samples = [{"x": np.full((1, 2), value, np.float32)} for value in (1, 2, 3)]
    repeat_samples(samples, {"x": (2, 4)}, tmp_path)
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) == 2
    assert np.load(files[0])["x"].tolist() == [[1, 1, 1, 1], [2, 2, 2, 2]]


def test_a_file_that_nobody_names_is_refused(hub: Hub, faults: Faults, toy: Path, tmp_path: Path) -> None:
    faults("side", alone=True)
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.error["code"] == "step-effect"
    assert "weights" in ran.error["message"]
    assert not (tmp_path / "weights").exists()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """An artifact with a side file, as a step leaves them."""
    folder = tmp_path / "step"
    folder.mkdir()
    (folder / "out.onnx").write_bytes(b"graph")
    (folder / "out.onnx.data").write_bytes(b"weights")
    return folder / "out.onnx", folder / "out.onnx.data"


def test_an_artifact_is_published_with_its_side_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    destination = tmp_path / "there" / "out.onnx"
    publish(pair[0], b"{}", destination, [pair[1]])
    assert sorted(path.name for path in destination.parent.iterdir()) == [
        "out.onnx", "out.onnx.data", receipt_path(destination).name,
    ]  # fmt: skip
    assert (destination.parent / "out.onnx.data").read_bytes() == b"weights"


def test_a_side_file_replaces_nothing_unasked(pair: tuple[Path, Path], tmp_path: Path) -> None:
    destination = tmp_path / "out.onnx"
    (tmp_path / "out.onnx.data").write_bytes(b"precious")
    with pytest.raises(OutputExists, match=r"out\.onnx\.data"):
        check_side_files([pair[1]], destination, force=False)
    check_side_files([pair[1]], destination, force=True)
    (tmp_path / "other.onnx.data").mkdir()
    other = pair[1].with_name("other.onnx.data")
    with pytest.raises(OutputNotWritable, match=r"other\.onnx\.data is a folder"):
        check_side_files([other], tmp_path / "other.onnx", force=True)
    with pytest.raises(UsageError, match="read by this run"):
        check_side_files([pair[1]], destination, force=True, inputs=[str(tmp_path / "out.onnx.data")])


@pytest.mark.parametrize("size", ["99999999999", "1..99999999999", "99999999999999999999999"])
def test_a_size_beyond_this_machines_memory_is_refused_before_it_is_made(hub: Hub, toy: Path, size: str) -> None:
    ran = hub("convert", toy, "--to", "toybin", "-o", toy.with_name("out.toybin"), "--shape", f"x={size}x6", "--json")
    assert ran.error["code"] == "usage"
    needed = int(size.rpartition(".")[2]) * 6 * 8
    assert f"one sample with x={size.rpartition('.')[2]}x6 needs {needed} bytes, and " in ran.error["message"]
    assert ran.error["hint"] == "give smaller sizes: --shape x=..."


def test_no_array_is_made_beyond_this_machines_memory() -> None:
    wide = TensorSpec(name="x", dtype=DType.FLOAT32, shape=tuple(Dim(symbol=name) for name in "abcdefgh"))
    signature = Signature(inputs=(wide,), outputs=())
    with pytest.raises(StepOutOfMemory, match="one sample with x=1x64x64"):  # another guess is tried
        fix_shapes(signature, ConvertOptions(), {}, guess=64)
    assert fix_shapes(signature, ConvertOptions(), {}, guess=8)[0] == {"x": (1, *[8] * 7)}
    with pytest.raises(UsageError, match="needs"):
        other_sizes(signature, {"x": (1 << 6,) * 8}, ())
