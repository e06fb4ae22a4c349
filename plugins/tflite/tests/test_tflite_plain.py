"""Raw files written plainly: MediaPipe's operators against loops over their definition, state against LiteRT's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flatbuffers import flexbuffers

from hub.spec import ConvertJob, ConvertOptions, ModelArtifact, StepError, UnsupportedModel
from hub_tflite.describe import describe_file
from hub_tflite.plain import RAW, make_plain
from hub_tflite.plain.edge import PLAIN
from hub_tflite.plain.sequence import differing_step
from hub_tflite.plain.variables import LiftedState
from hub_tflite.runtime import VARIANTS, LiteRtSession
from hub_tflitefile.schema import operator_counts, read, to_bytes
from plugins.tflite.tests.tflite_graphs import Graph
from plugins.tflite.tests.tflite_variables import SIZE, first_value, with_small_state, with_variable

Floats = npt.NDArray[np.float32]
RNG = np.random.default_rng(0)


def drawn(*shape: int) -> Floats:
    return RNG.standard_normal(shape).astype(np.float32)


def custom(
    name: str, operands: list[Floats], shapes: list[tuple[int, ...]], options: bytes, version: int, constants: int = 0
) -> bytes:
    """One custom operator; the last `constants` operands are stored."""
    made = Graph()
    fed = len(operands) - constants
    inputs = [made.tensor(f"x{place}", array.shape) for place, array in enumerate(operands[:fed])]
    stored = [made.constant(f"c{place}", array) for place, array in enumerate(operands[fed:])]
    results = [made.tensor(f"y{place}", shape) for place, shape in enumerate(shapes)]
    made.add("CUSTOM", [*inputs, *stored], results)
    made.codes[0].customCode, made.codes[0].version = name.encode(), version
    made.operators[0].customOptions = np.frombuffer(options, np.uint8)
    return to_bytes(made.model(inputs, results))


def run(content: bytes, operands: list[Floats], variant: str) -> list[Floats]:
    feeds = {f"x{place}": array for place, array in enumerate(operands)}
    return list(LiteRtSession(content, variant).run(feeds).values())  # type: ignore[arg-type] # floats alone


def windows(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in shape))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("padding", "size", "strides", "taps"), [(1, 5, (2, 2), 3), (2, 4, (2, 3), 3), (1, 4, (2, 2), 2)]
)
def test_convolution_2d_transpose_bias(
    padding: int, size: int, strides: tuple[int, int], taps: int, variant: str
) -> None:
    x, w, bias = drawn(1, size, size, 3), drawn(2, taps, taps, 3), drawn(2)
    full = [(size - 1) * stride + taps for stride in strides]
    cut = [max(0, taps - (size - 1) % stride - 1) if padding == 1 else 0 for stride in strides]
    wide = np.zeros((1, *full, 2), np.float32)
    for row, column in windows((size, size)):
        for down, across in windows((taps, taps)):
            wide[0, row * strides[0] + down, column * strides[1] + across] += w[:, down, across] @ x[0, row, column]
    begins = [each // 2 for each in cut]
    ends = [begin + whole - each for begin, whole, each in zip(begins, full, cut, strict=True)]
    wanted = wide[:, begins[0] : ends[0], begins[1] : ends[1]] + bias
    options = np.int32([padding, strides[1], strides[0]]).tobytes()
    content = custom("Convolution2DTransposeBias", [x, w, bias], [wanted.shape], options, 1, constants=2)
    np.testing.assert_allclose(run(content, [x], variant)[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("padding", "window", "strides"), [(2, (2, 3), (2, 3)), (1, (3, 3), (2, 2))])
def test_max_pooling_with_argmax(padding: int, window: tuple[int, int], strides: tuple[int, int], variant: str) -> None:
    x = drawn(1, 6, 9, 2)
    places = [-(-size // step) if padding == 1 else (size - tap) // step + 1
              for size, tap, step in zip((6, 9), window, strides, strict=True)]  # fmt: skip
    shape = (1, *places, 2)
    largest, where = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    spans = [(place - 1) * step + tap for place, step, tap in zip(places, strides, window, strict=True)]
    before = [max(span - size, 0) // 2 if padding == 1 else 0 for span, size in zip(spans, (6, 9), strict=True)]
    for row, column, channel in windows(shape[1:]):
        best = -np.inf
        for down, across in windows(window):
            y, z = row * strides[0] - before[0] + down, column * strides[1] - before[1] + across
            if 0 <= y < 6 and 0 <= z < 9 and x[0, y, z, channel] > best:
                best = x[0, y, z, channel]
                where[0, row, column, channel] = down * window[1] + across + 0.1
        largest[0, row, column, channel] = best
    options = np.int32([padding, strides[1], strides[0], window[1], window[0], 0]).tobytes()
    found = run(custom("MaxPoolingWithArgmax2D", [x], [shape, shape], options, 1), [x], variant)
    np.testing.assert_array_equal(found[0], largest)
    np.testing.assert_allclose(found[1], where, rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_max_unpooling(variant: str) -> None:
    x, places = drawn(2, 3, 2, 4), RNG.integers(0, 6, (2, 3, 2, 4)).astype(np.float32) + np.float32(0.1)
    wanted = np.zeros((2, 6, 6, 4), np.float32)
    for index in windows(x.shape):
        batch, row, column, channel = index
        down, across = divmod(int(places[index]), 3)
        wanted[batch, row * 2 + down, column * 3 + across, channel] = x[index]
    options = np.int32([2, 3, 2, 3, 2, 0]).tobytes()
    content = custom("MaxUnpooling2D", [x, places], [wanted.shape], options, 1)
    np.testing.assert_array_equal(run(content, [x, places], variant)[0], wanted)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("axes", [2, 3])
def test_transform_landmarks(axes: int, variant: str) -> None:
    points, matrix = drawn(1, 5, axes), drawn(1, 4, 4)
    wanted = points.copy()
    wanted[0, :, :2] = points[0, :, :2] @ matrix[0, :2, :2].T + matrix[0, :2, 3]
    found = run(custom("TransformLandmarks", [points, matrix], [points.shape], b"", 2), [points, matrix], variant)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_transform_tensor_bilinear(variant: str) -> None:
    """Some pixels lie outside of the image, some on its last row."""
    image, matrix = drawn(1, 6, 7, 3), np.zeros((1, 4, 4), np.float32)
    matrix[0, :2] = [[1.5, 0.25, 0, -0.5], [-0.25, 1.25, 0, 0.75]]
    wanted = np.zeros((1, 4, 5, 3), np.float32)
    for row, column in windows((4, 5)):
        x, y = matrix[0, :2, [0, 1, 3]].T @ [column + 0.5, row + 0.5, 1] - 0.5
        if 0 <= x <= 6 and 0 <= y <= 5:
            left, top = int(x), int(y)
            right, bottom = min(left + 1, 6), min(top + 1, 5)
            upper = (1 - x + left) * image[0, top, left] + (x - left) * image[0, top, right]
            lower = (1 - x + left) * image[0, bottom, left] + (x - left) * image[0, bottom, right]
            wanted[0, row, column] = (1 - y + top) * upper + (y - top) * lower
    assert 0 < np.count_nonzero(wanted.any(-1)) < 20
    options = bytes(flexbuffers.Dumps({"output_height": 4, "output_width": 5}))
    content = custom("TransformTensorBilinear", [image, matrix], [wanted.shape], options, 2)
    np.testing.assert_allclose(run(content, [image, matrix], variant)[0], wanted, rtol=1e-4, atol=1e-5)


def _turned(radians: float) -> npt.NDArray[np.float64]:
    made = np.eye(4)
    made[:2, :2] = [[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]]
    return made


def _moved(x: float, y: float) -> npt.NDArray[np.float64]:
    made = np.eye(4)
    made[:2, 3] = x, y
    return made


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("target", "still"), [(0.0, False), (1.1, False), (0.5, True)])
def test_landmarks_to_transform_matrix(target: float, still: bool, variant: str) -> None:
    """`still`: the two landmarks that give the angle lie at one place."""
    points = drawn(1, 6, 3) * 20
    points[0, 4, :2] = points[0, 1, :2] if still else points[0, 4, :2]
    across, along = points[0, 4, :2] - points[0, 1, :2]
    angle = target - np.arctan2(along, across)
    chosen = points[0, [0, 2, 3, 5], :2] @ _turned(angle)[:2, :2].T
    low, high = chosen.min(0), chosen.max(0)
    centre = _turned(-angle)[:2, :2] @ ((low + high) / 2)
    scale = np.diag([*(np.array([1.5, 1.25]) * (high - low) / [8, 4]), 1, 1])
    wanted = _moved(*centre) @ _turned(-angle) @ scale @ _moved(-4, -2)
    said = {"left_rotation_idx": 1, "right_rotation_idx": 4, "target_rotation_radians": target, "output_width": 8,
            "output_height": 4, "scale_x": 1.5, "scale_y": 1.25, "subset_idxs": [0, 2, 3, 5]}  # fmt: skip
    content = custom("Landmarks2TransformMatrix", [points], [(1, 4, 4)], bytes(flexbuffers.Dumps(said)), 2)
    np.testing.assert_allclose(run(content, [points], variant)[0][0], wanted, rtol=1e-4, atol=1e-4)


def test_a_raw_file_is_told_and_written(tmp_path: Path) -> None:
    options = np.int32([1, 2, 2]).tobytes()
    x, w, bias = drawn(1, 4, 4, 3), drawn(2, 2, 2, 3), drawn(2)
    source = tmp_path / "raw.tflite"
    source.write_bytes(custom("Convolution2DTransposeBias", [x, w, bias], [(1, 8, 8, 2)], options, 1, constants=2))
    summary = describe_file(source)
    assert (summary.state.form, summary.custom_operators) == (RAW, ())
    assert summary.findings[0].code == "custom-operators-written"
    written = plain(source)
    assert operator_counts(read(written)) == {"TRANSPOSE_CONV": 1}
    assert describe_file(written).state.form == ""
    (before,), (after,) = (run(file.read_bytes(), [x], "") for file in (source, written))
    assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("Convolution2DTransposeBias", b"", "0 bytes, not 12"),
        ("Convolution2DTransposeBias", np.int32([3, 2, 2]).tobytes(), "its padding is 3"),
    ],
)
def test_other_forms_are_refused(name: str, options: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.tflite"
    operands = [drawn(1, 4, 4, 3), drawn(2, 2, 2, 3), drawn(2)]
    file.write_bytes(custom(name, operands, [(1, 8, 8, 2)], options, 1, constants=2))
    with pytest.raises(UnsupportedModel, match=reason):
        describe_file(file)


def plain(source: Path, states: dict[str, str] | None = None) -> Path:
    summary = describe_file(source)
    artifact = ModelArtifact(
        path=str(source), state=summary.state, signature=summary.signature, sha256="", size_bytes=summary.size_bytes
    )
    result = source.with_name("plain.tflite")
    target = PLAIN.gives.states(summary.state.numerics)[0]
    job = ConvertJob(
        target=target,
        source=artifact,
        output=str(result),
        scratch=str(source.parent),
        options=ConvertOptions(states=states or {}),
    )
    PLAIN.convert(job)
    return result


def test_state_becomes_an_input_and_an_output(tmp_path: Path) -> None:
    """v starts at 0.5 and is x + v after each run: y is the sum of all x so far and 0.5."""
    source = tmp_path / "state.tflite"
    source.write_bytes(to_bytes(with_variable(written=True)))
    summary = describe_file(source)
    assert summary.state.form == RAW
    assert [finding.code for finding in summary.findings[:2]] == ["state-lifted", "state-starts-elsewhere"]
    session = LiteRtSession(plain(source).read_bytes())
    assert (list(session.inputs), list(session.outputs)) == (["x", "weights"], ["y", "weights_next"])
    state = np.full(SIZE, 0.5, np.float32)
    for step in range(1, 4):
        made = session.run({"x": np.ones(SIZE, np.float32), "weights": state})
        state = made["weights_next"]
        assert (made["y"] == 0.5 + step).all()
        assert (state == 0.5 + step).all()


def test_state_that_is_lifted_wrongly_is_seen() -> None:
    """A first value that is another shows in the first run, a state that is forgotten in the second."""
    before, model = to_bytes(with_variable(written=True)), with_variable(written=True)
    (state,) = make_plain(model).states
    assert differing_step(before, to_bytes(model), [state]) is None
    other = LiftedState(state.name, state.output, state.first + np.float32(1))
    assert differing_step(before, to_bytes(model), [other]) == 0
    forget(model)
    assert differing_step(before, to_bytes(model), [state]) == 1


def forget(model: Any) -> None:
    """Give the state that was fed as that of the next run."""
    (signature,) = model.signatureDefs
    forgotten = signature.inputs[1].tensorIndex
    model.subgraphs[0].outputs = [signature.outputs[0].tensorIndex, forgotten]
    signature.outputs[1].tensorIndex = forgotten


def test_small_integers_are_drawn_from_all_of_their_range() -> None:
    """An int16 state of less than a hundred steps would round to nothing, forgotten or not."""
    before, model = to_bytes(with_small_state()), with_small_state()
    (state,) = make_plain(model).states
    assert differing_step(before, to_bytes(model), [state]) is None
    forget(model)
    assert differing_step(before, to_bytes(model), [state]) == 1


@pytest.mark.parametrize(("start", "kept"), [(0.0, True), (0.5, False)])
def test_a_state_is_kept_inside_where_it_starts_at_0(start: float, kept: bool, tmp_path: Path) -> None:
    source = tmp_path / "state.tflite"
    source.write_bytes(to_bytes(with_variable(written=True, start=start)))
    lifted, *others = describe_file(source).findings
    assert ("--state weights=weights_next" in lifted.hint) is kept
    assert ["weights (0.5)" in finding.text for finding in others] == ([] if kept else [True])
    if kept:
        plain(source, {"weights": "weights_next"})
    else:
        with pytest.raises(UnsupportedModel, match=r"starts weights \(0\.5\)"):
            plain(source, {"weights": "weights_next"})


def test_an_integer_state_that_stands_for_0_does_not_start_at_0() -> None:
    """`--state` starts at the integer 0, which is 128 steps away here."""
    state = LiftedState("s", "s_next", np.full(SIZE, -128, np.int8))
    assert (state.starts_at_zero, str(state)) == (False, "s (int8 -128)")
    assert str(LiftedState("s", "s_next", np.int16([3, -1]))) == "s (int16 from -1 to 3)"


@pytest.mark.parametrize("other", ["branch", "computed"])
def test_variables_that_other_graphs_touch_are_refused(other: str) -> None:
    """A branch may write what the main graph only reads; a table's import would be lost with the first values."""
    model = with_variable(written=True)
    if other == "branch":
        made = Graph()
        made.codes, made.buffers = model.operatorCodes, model.buffers
        model.subgraphs.append(first_value(made, np.ones(SIZE, np.float32), b"weights"))
        reason = "the graph number 2 uses variables"
    else:
        model.subgraphs[1].operators.append(model.subgraphs[0].operators[3])
        reason = "ADD runs once before the first run"
    with pytest.raises(UnsupportedModel, match=reason):
        make_plain(model)


def test_the_edge_refuses_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "state.tflite"
    source.write_bytes(to_bytes(with_variable(written=True)))
    monkeypatch.setattr("hub_tflite.plain.edge.differing_step", lambda *_: 2)
    with pytest.raises(StepError, match="in run 3 of a sequence"):
        plain(source)
