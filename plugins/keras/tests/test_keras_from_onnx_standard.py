"""The ONNX standard's own test cases as judge of the Keras importer: right after saving and loading, or refused."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from hub_keras.onnx_importer import import_onnx
from hub_keras.onnx_importer.applied import added
from hub_keras.onnx_importer.registry import TABLE
from plugins.keras.tests import onnx_node_judge as judge

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Keras and ONNX's cases use old parts of numpy
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # ONNX's cases overflow on purpose
    pytest.mark.filterwarnings("ignore::UserWarning"),  # Keras tells of its own guesses
]
FLOOR = 1198  # raised when more passes; never lowered without a reason here
FLOOR_OF_OPERATORS = 163  # the same for the first case of each operator
SHARE = 0.95  # of what can be expressed
TABLE_FILE = Path(__file__).with_name("onnx_node_inexpressible.toml")


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    return judge.cases()


@pytest.fixture(scope="module")
def inexpressible() -> dict[str, str]:
    """Case -> the reason why a Keras model cannot express it."""
    groups = tomllib.loads(TABLE_FILE.read_text(encoding="utf-8")).values()
    return {name: group["reason"] for group in groups for name in group["cases"]}


def first_of_each_operator(cases: Iterable[Any], without: Iterable[str]) -> list[Any]:
    chosen: dict[str, Any] = {}
    for case in cases:
        if case.name not in set(without):
            chosen.setdefault(case.model.graph.node[-1].op_type, case)
    return list(chosen.values())


def judged(cases: Iterable[Any], inexpressible: dict[str, str]) -> tuple[dict[str, str], Counter[str]]:
    """Verdict of each case, and how many there are of each kind; a refusal that the table explains is inexpressible."""
    found = {case.name: judge.verdict(case) for case in cases}
    kinds = {name: verdict.split(":", maxsplit=1)[0] for name, verdict in found.items()}
    counts = Counter(
        "inexpressible" if kind == "refused" and name in inexpressible else kind for name, kind in kinds.items()
    )
    print("ONNX node cases to Keras:", ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))  # noqa: T201 - a record
    return found, counts


def wrong(found: dict[str, str]) -> dict[str, str]:
    return {name: verdict for name, verdict in found.items() if verdict.startswith("wrong")}


def test_first_case_of_each_operator(
    cases: list[Any], inexpressible: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        found, counts = judged(first_of_each_operator(cases, inexpressible), inexpressible)
    assert wrong(found) == {}
    assert counts["passed"] >= FLOOR_OF_OPERATORS


@pytest.mark.scheduled
def test_all_cases(cases: list[Any], inexpressible: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        found, counts = judged(cases, inexpressible)
    assert wrong(found) == {}
    assert counts["passed"] >= FLOOR
    assert counts["passed"] >= SHARE * (counts["passed"] + counts["refused"])
    assert [name for name in inexpressible if not found[name].startswith("refused")] == []


def test_table_names_cases_of_the_standard(cases: list[Any], inexpressible: dict[str, str]) -> None:
    assert inexpressible.keys() <= {case.name for case in cases}


def test_judge_sees_a_wrong_operator(cases: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE.rows, ("", "Ceil"), TABLE.rows["", "Floor"])
    chosen = [case for case in cases if case.name.startswith("test_ceil")]
    assert chosen
    assert all(judge.verdict(case).startswith("wrong") for case in chosen)


# Sums that keras.ops.add takes for a bias along another axis on TensorFlow, and some that it takes rightly.
_SHAPES = (
    ((2, 2), (2, 1)), ((3, 3, 3), (3, 1)), ((2, 3, 2), (2, 1, 1)), ((2, 3, 1), (3,)), ((3, 3), (3, 1, 1)),
    ((2, 1), (2, 2)), ((3, 1), (1, 3)), ((2, 3), (3,)), ((2, 3, 4), (3, 1)), ((1, 3), (3, 1)),
)  # fmt: skip


@pytest.mark.parametrize(("first", "second"), _SHAPES)
@pytest.mark.parametrize("is_open", [False, True])
def test_sums_keep_their_axes(first: tuple[int, ...], second: tuple[int, ...], is_open: bool) -> None:
    import keras

    a, b = (np.arange(1.0, 1 + np.prod(shape), dtype="float32").reshape(shape) for shape in (first, second))
    inputs = [keras.Input(batch_shape=(None,) * x.ndim if is_open else x.shape) for x in (a, b)]
    result = keras.Model(inputs, added(*inputs))([a, 10 * b])
    np.testing.assert_array_equal(np.asarray(result), a + 10 * b)


@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
def test_transposed_convolutions_with_dilations(strides: list[int]) -> None:
    """TensorFlow computes none on CPUs: the import must not need one."""
    kernel = np.random.default_rng(0).standard_normal((2, 3, 2, 3), dtype="float32")
    x = np.arange(2 * 4 * 5, dtype="float32").reshape(1, 2, 4, 5)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], dilations=[2, 3], strides=strides)
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", x.shape), ("y", None))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [onnx.numpy_helper.from_array(kernel, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    (made,) = judge.run(import_onnx(model), [x])
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-4)
