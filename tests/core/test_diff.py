"""`hub diff`: what is taken for the same, what explains a difference, and what is shown of it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hub._bindings import to_artifact, to_reals, to_source
from hub._causes import HeldConstant, constant_cause, hold_constants, result_causes
from hub._diff import output_diffs
from hub._insides import InsideComparison, open_inside
from hub._layer_bounds import LocalBounds
from hub._matching import InnerResult, best_order, match, result_of
from hub._page import write_page
from hub._pairing import hold_alike, paired
from hub._tasks import NOTHING_KNOWN, KnownChanges
from hub.spec import (
    SQNR_CAP_DB,
    DiffReport,
    Dim,
    DType,
    InnerLayer,
    InnerTensor,
    Inside,
    InsideDiff,
    ModelArtifact,
    Numerics,
    QuantParams,
    RuntimeOptions,
    Signature,
    State,
    StoredConstant,
    TensorSpec,
    UsageError,
)
from tests.conftest import classifier, write_toy
from tests.core.test_local import FLOAT, LAYERS, SOUND, B, ChainFormat, ChainRuntime, W

DRAW = np.random.default_rng(1)
Hub = Callable[..., Any]


def results(*layers: tuple[str, str, Any]) -> list[InnerResult]:
    tensors = {name: InnerTensor(name=name, stands_for=name, dtype=DType.FLOAT32) for name, _, _ in layers}
    made = [InnerLayer(name=name, operator=kind, inputs=(), outputs=(name,)) for name, kind, _ in layers]
    inside = Inside(layers=tuple(made), tensors=tensors, inputs={})
    return [result_of(inside, layer, array) for layer, (_, _, array) in zip(made, layers, strict=True)]


def test_tensors_are_matched_by_name_by_value_and_by_place() -> None:
    one, two, three = (DRAW.normal(size=(1, 3, 8, 8)) * size for size in (1, 5, 20))
    rectified = np.maximum(two, 0)
    a = results(("a", "Conv", one), ("b", "Conv", two), ("r", "Relu", rectified), ("c", "Conv", three))
    b = results(("a", "Conv", one * 9), ("n1", "CONV_2D", np.moveaxis(rectified, 1, -1)), ("n2", "CONV_2D", one * 99))
    assert match(a, b) == {0: (0, "name"), 2: (1, "value"), 3: (2, "place")}


def test_axes_are_laid_out_as_values_say() -> None:
    one = DRAW.normal(size=(1, 8, 8, 8))
    order = best_order(one, one.transpose(0, 2, 3, 1))
    assert order
    assert np.array_equal(order.laid_out(one.transpose(0, 2, 3, 1)), one)
    assert order.back == (1, 2, 0)
    assert best_order(one, DRAW.normal(size=(8, 8))) is None


KERNEL = DRAW.normal(size=(8, 4, 3, 3))


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("constant-scaled", KERNEL * 1.05),
        ("constant-scaled", KERNEL * 0),
        ("constant-transposed", KERNEL.transpose(0, 1, 3, 2)),
        ("constant-permuted", KERNEL[[7, 1, 2, 3, 4, 5, 6, 0]]),
        ("channel-scaled", KERNEL * np.where(np.arange(8) == 3, 0, 1)[:, None, None, None]),
        ("norm-folded", KERNEL * np.linspace(0.5, 2, 8)[:, None, None, None]),
        ("constant-wrapped", np.where(np.abs(KERNEL) > 2, -KERNEL, KERNEL)),
        ("constant-differs", KERNEL + DRAW.normal(size=KERNEL.shape)),
        ("", KERNEL),
    ],
)
def test_what_is_wrong_with_a_constant_is_named(code: str, changed: Any) -> None:
    step = 0.01
    stored = np.rint(changed / step) * step
    cause = constant_cause(HeldConstant("w", KERNEL, stored, np.full(KERNEL.shape, step * 0.51)))
    assert (cause.code if cause else "") == code


def test_constants_of_other_formats_are_laid_out_alike() -> None:
    other = StoredConstant(KERNEL.transpose(0, 2, 3, 1), np.zeros(()))
    held = hold_constants({"w": StoredConstant(KERNEL, np.zeros(()))}, {"v": other}, LocalBounds(), kind="con")
    assert not held.causes
    assert not held.folded
    assert held.orders[0].order == (0, 3, 1, 2)


def test_two_files_with_grids_of_their_own_hold_the_same_constant() -> None:
    one, other = (
        StoredConstant(np.rint(KERNEL / step) * step, np.full(shape, step))
        for step, shape in ((0.03, ()), (0.005, (8, 1, 1, 1)))
    )
    for pair in ((one, other), (other, one)):
        assert not hold_constants({"w": pair[0]}, {"w": pair[1]}, LocalBounds(), kind="").causes


RESULT = DRAW.normal(size=(2, 1, 8, 6, 6))


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("result-scaled", RESULT * 1.2),
        ("result-shifted", RESULT + np.linspace(0, 3, 8)[:, None, None]),
        ("channels-permuted", RESULT[:, :, ::-1]),
        ("axes-permuted", RESULT.swapaxes(3, 4)),
        ("not-finite", np.where(RESULT > 2, np.nan, RESULT)),
    ],
)
def test_what_is_wrong_with_a_result_is_named(code: str, changed: Any) -> None:
    noise = DRAW.normal(size=RESULT.shape) * 0.01
    assert [cause.code for cause in result_causes(RESULT, changed + noise)] == [code]
    assert not list(result_causes(RESULT, DRAW.normal(size=RESULT.shape)))


def compared(
    folder: Path,
    other: dict[str, Any],
    numerics: Numerics = Numerics.INT8,
    known: KnownChanges = NOTHING_KNOWN,
) -> InsideDiff:
    models = []
    for name, model, kind in (("one", FLOAT, Numerics.FP32), ("other", other, numerics)):
        file = folder / f"{name}.json"
        file.write_text(json.dumps(model))
        state = State(format="chain", numerics=kind)
        signature = Signature(inputs=(), outputs=())
        models.append(ModelArtifact(path=str(file), state=state, signature=signature, sha256=name, size_bytes=1))
    feeds = [{"x": DRAW.normal(size=(8, 4)).astype(np.float32)} for _ in range(4)]
    with contextlib.ExitStack() as stack:
        opened = [open_inside(ChainFormat(), ChainRuntime(), model, RuntimeOptions(), stack) for model in models]
        return InsideComparison(opened[0], opened[1], [(feed, feed) for feed in feeds], 2, known).report()


def test_a_sound_model_has_no_layer_that_diverges(tmp_path: Path) -> None:
    found = compared(tmp_path, SOUND)
    assert found.first is None
    assert [layer.matched_by for layer in found.layers] == ["name"] * 4  # the input too
    assert all(layer.local_db is not None and layer.local_db >= layer.accumulated_db - 3 for layer in found.layers)
    assert len(found.details) == 2
    assert sum(found.details[0].counts) == sum(found.details[0].other_counts)


@pytest.mark.parametrize(
    ("layer", "code", "changes"),
    [
        ("m", "constant-scaled", {"constants": SOUND["constants"] | {"w": (np.rint(W / 0.01) * 0.0103).tolist()}}),
        ("m", "range-cuts", {"grids": SOUND["grids"] | {"m": (-40, 40)}}),
        ("z", "other-computation", {"layers": [*LAYERS[:2], ["Add", ["y", "x"], "z"]]}),
    ],
)
def test_the_first_layer_that_diverges_is_named_with_its_cause(
    tmp_path: Path, layer: str, code: str, changes: dict[str, Any]
) -> None:
    first = compared(tmp_path, SOUND | changes).first
    assert first
    assert (first.layer, first.causes[0].code) == (layer, code)


def test_a_bias_that_its_receipt_tells_to_be_moved_is_not_blamed(tmp_path: Path) -> None:
    moved = SOUND | {"constants": SOUND["constants"] | {"b": (B + np.array([0.5, -0.5, 0.4, 0])).tolist()}}
    first = compared(tmp_path, moved).first
    assert first
    assert first.causes[0].code == "constant-differs"
    assert "may be a bias correction" in first.causes[0].text
    unmoved = compared(tmp_path, moved, known=KnownChanges(corrections={"m": 0.1})).first
    assert unmoved
    assert "bias correction" not in unmoved.causes[0].text
    known = compared(tmp_path, moved, known=KnownChanges(corrections={"m": 0.5}))
    assert known.first is None
    (cause,) = next(layer for layer in known.layers if layer.layer == "y").causes
    assert cause.code == "bias-moved"
    assert "up to 0.5" in cause.text


def test_names_of_swapped_outputs_say_nothing_of_what_is_inside() -> None:
    left, right = (DRAW.normal(size=(1, 8)) * size for size in (1, 9))
    ones = results(("left", "Gemm", left), ("right", "Gemm", right))
    others = results(("left", "Gemm", right), ("right", "Gemm", left))
    assert match(ones, others) == {0: (0, "name"), 1: (1, "name")}
    nameless = [[item._replace(names=frozenset()) for item in both] for both in (ones, others)]
    assert {one: other for one, (other, by) in match(*nameless).items() if by == "value"}.items() <= {
        0: 1,
        1: 0,
    }.items()


def test_outputs_in_each_others_place_are_said_first(hub: Hub, twin: Path, tmp_path: Path) -> None:
    content = json.loads(twin.read_text())
    names = {"sum": "bent", "bent": "sum"}
    for layer in content["layers"]:
        layer["output"] = names.get(layer["output"], layer["output"])
        layer["inputs"] = [names.get(name, name) for name in layer["inputs"]]
    other = write_toy(tmp_path / "other.toy", content)
    ran = hub("diff", twin, other)
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[0].split(maxsplit=1)[0] == "swapped"
    assert "B's output bent is A's sum" in ran.out.splitlines()[0]


def test_an_open_batch_is_compared_at_what_the_other_fixes(hub: Hub, toy: Path, tmp_path: Path) -> None:
    fixed = write_toy(tmp_path / "fixed.toy", classifier(2))
    for one, other in ((toy, fixed), (fixed, toy)):
        (output,) = hub("diff", one, other, "--json").json["outputs"]
        assert output["sqnr_db"] == SQNR_CAP_DB
        assert output["elements"] % (2 * 3) == 0


def test_what_diverges_first_is_in_the_json_too(
    hub: Hub, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub("diff", toy, toy, "--json").json["inside"]["first"] is None
    found = compared(tmp_path, SOUND | {"grids": SOUND["grids"] | {"m": (-40, 40)}})
    model = ModelArtifact(
        path="a.chain", state=State(format="chain", numerics=Numerics.FP32),
        signature=Signature(inputs=(), outputs=()), sha256="", size_bytes=1,
    )  # fmt: skip
    report = DiffReport(model=model, other=model, inputs="given", samples=4, outputs=(), inside=found)
    monkeypatch.setattr("hub._diff.diff", lambda *_, **__: report)
    assert hub("diff", toy, toy, "--json").json["inside"]["first"]["layer"] == "m"


def test_a_mistyped_file_is_answered_with_its_neighbour(hub: Hub, toy: Path) -> None:
    wrong = toy.with_name("modle.toy")
    assert hub("inspect", wrong, "--json").error["hint"] == f"did you mean model.toy? (in {toy.parent}/)"
    far = toy.with_name("nowhere") / "modle.toy"
    assert hub("inspect", far, "--json").error["hint"] == f"look around: ls {toy.parent}"


def integers(name: str, scale: float, zero_point: int) -> TensorSpec:
    quant = QuantParams(scale=(scale,), zero_point=(zero_point,))
    return TensorSpec(name=name, dtype=DType.INT8, shape=(Dim.of(1), Dim.of(4)), quant=quant)


def test_integers_at_both_ends_are_fed_as_what_they_stand_for() -> None:
    one = Signature(inputs=(integers("x", 0.5, 3),), outputs=(integers("y", 0.1, 0),))
    other = Signature(inputs=(integers("x", 0.25, -1),), outputs=(integers("y", 0.2, 5),))
    found = paired(one, other)
    fed = np.array([[3, 5, -7, 13]], np.int8)
    real = to_reals({"x": fed}, found.own, "input")
    assert real["x"].tolist() == [[0, 1, -5, 5]]
    assert to_artifact(real, (found.bindings,))["x"].tolist() == [[-1, 3, -21, 19]]
    assert np.array_equal(to_artifact(real, (found.own,))["x"], fed)
    given = to_source({"y": np.array([[5, 6, 7, 8]], np.int8)}, (found.bindings,))["y"]
    assert np.allclose(given, [[0, 0.2, 0.4, 0.6]])
    assert not hold_alike(one, other)
    assert hold_alike(one, one)
    floats = paired(one, Signature(inputs=(spec("x", 1, 4),), outputs=(spec("y", 1, 4),)))
    assert (floats.bindings, len(floats.own)) == ((), 2)


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=DType.FLOAT32, shape=tuple(map(Dim.of, shape)))


def test_models_without_a_receipt_are_fed_by_name_or_order_and_by_size() -> None:
    one = Signature(inputs=(spec("x", 1, 3, 8, 8),), outputs=(spec("y", 1, 10),))
    assert not paired(one, one).bindings
    other = Signature(inputs=(spec("image", 1, 8, 8, 3),), outputs=(spec("y", 1, 10),))
    (binding,) = paired(one, other).bindings
    assert (binding.source, binding.target, binding.permutation) == ("x", "image", (0, 2, 3, 1))
    with pytest.raises(UsageError, match="B has"):
        paired(one, Signature(inputs=(spec("image", 1, 8, 9, 3),), outputs=()))


def test_renamed_inputs_and_outputs_are_paired_by_stem_by_sizes_and_last_by_place() -> None:
    outputs = spec("scores", 1, 10), spec("boxes", 1, 4), spec("left", 1, 7), spec("right", 1, 7)
    one = Signature(inputs=(spec("x", 1, 8), spec("mask", 1, 8)), outputs=outputs)
    theirs = tuple(spec(f"Call:{place}", 1, size) for place, size in enumerate((4, 7, 7, 10)))
    stems = spec("serving_default_mask:0", 1, 8), spec("serving_default_x:0", 1, 8)
    found = paired(one, Signature(inputs=stems, outputs=theirs[3:] + theirs[:3]))
    assert {item.source: item.target for item in found.bindings} == {
        "x": "serving_default_x:0",
        "mask": "serving_default_mask:0",
        "scores": "Call:3",
        "boxes": "Call:0",
        "left": "Call:1",
        "right": "Call:2",
    }
    (remark,) = found.told
    assert (remark.kind, remark.code) == ("warning", "paired-by-place")
    assert "left is B's Call:1 (by its place alone" in remark.text
    sure = Signature(inputs=one.inputs, outputs=one.outputs[:3])
    (remark,) = paired(sure, Signature(inputs=stems, outputs=theirs[::2] + theirs[3:])).told
    assert remark.kind == "note"


def test_sizes_that_one_fixes_are_what_both_are_fed() -> None:
    free = TensorSpec(name="x", dtype=DType.FLOAT32, shape=(Dim.of("batch"), *map(Dim.of, (3, 8, 8))))
    fixed = Signature(inputs=(spec("x", 2, 8, 8, 3),), outputs=(spec("y", 2, 10),))
    found = paired(Signature(inputs=(free,), outputs=(spec("y", 2, 10),)), fixed)
    assert found.shapes == {"x": (2, 3, 8, 8)}
    assert found.bindings[0].permutation == (0, 2, 3, 1)


def test_a_frozen_input_is_none_of_the_others() -> None:
    one = Signature(inputs=(spec("x", 1, 8), spec("rate", 1)), outputs=(spec("y", 1, 10),))
    other = Signature(inputs=one.inputs[:1], outputs=one.outputs)
    (binding,) = paired(one, other, {"rate": 16000}).bindings
    assert (binding.source, binding.target, binding.constant) == ("rate", "", 16000)
    with pytest.raises(UsageError, match="A takes"):
        paired(one, other)


def test_a_format_without_layers_is_compared_by_its_outputs(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.toybin"
    assert hub("convert", toy, "--to", "toybin", "--int8", "--calibration", samples, "-o", output).status == 0
    ran = hub("diff", toy, output, "--data", samples)
    assert ran.status == 0
    assert "SQNR" in ran.out
    assert "toybin shows no layers; those that do" in ran.out
    report = hub("diff", toy, output, "--json").json
    assert report["remarks"][0]["code"] == "diff-on-random-inputs"
    assert report["outputs"][0]["sqnr_db"] > 20
    assert hub("diff", toy, output, "-q").out == ""


class Outside(HTMLParser):
    """Collects what a page would ask another host for, and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.asked += [str(value) for name, value in attrs if name in {"src", "href"}]


def test_the_page_is_whole_in_itself_and_names_act_on_nothing(tmp_path: Path) -> None:
    found = compared(tmp_path, SOUND | {"grids": SOUND["grids"] | {"m": (-40, 40)}})
    evil = "</script><script>alert(1)</script>"
    layers = tuple(msgspec.structs.replace(item, layer=f"{evil}{item.layer}") for item in found.layers)
    model = ModelArtifact(
        path=str(tmp_path / "a.chain"), state=State(format="chain", numerics=Numerics.FP32),
        signature=Signature(inputs=(), outputs=()), sha256="", size_bytes=1,
    )  # fmt: skip
    report = DiffReport(
        model=model, other=model, inputs="given", samples=4, outputs=(),
        inside=msgspec.structs.replace(found, layers=layers),
    )  # fmt: skip
    write_page(report, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Outside(text)
    assert not page.asked
    assert page.scripts <= 3
    assert "<script>alert" not in text
    for words in ("Error along the graph", "range-cuts", "First to diverge", "levels of B", "SQNR (dB)"):
        assert words in text, words
    assert len(text) < 4e6


def test_a_page_without_what_draws_it_says_what_to_install(
    hub: Hub, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    ran = hub("diff", toy, toy, "--html", tmp_path / "page.html")
    assert ran.status == 4
    assert "pip install 'hub-convert[page]'" in ran.err


def test_a_page_replaces_a_page_and_nothing_else(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    data = samples.read_bytes()
    ran = hub("diff", toy, toy, "--data", samples, "--html", samples, "--force", "--json")
    assert (ran.error["code"], samples.read_bytes()) == ("output-exists", data)
    assert hub("diff", toy, toy, "--html", tmp_path, "--force", "--json").error["code"] == "output-not-writable"
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html>an old one")
    assert hub("diff", toy, toy, "--html", page, "--force").status == 0
    assert "Error along the graph" in page.read_text() or "Outputs" in page.read_text()


def test_numbers_that_are_not_finite_are_no_match(tmp_path: Path) -> None:
    for name, values in (("one", [1.0, 2.0]), ("other", [1.0, np.nan])):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "0.npz", y=np.array(values, np.float32))
    for one, other in (("one", "other"), ("other", "one"), ("other", "other")):
        (found,) = output_diffs(tmp_path / one, tmp_path / other, {})
        assert (found.sqnr_db, found.cosine) == (-SQNR_CAP_DB, 0.0)
        assert found.causes[0].code == "not-finite"
        assert "50.0%" in found.causes[0].text
