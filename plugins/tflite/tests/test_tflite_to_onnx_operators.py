"""Judge: every operator of the importer, from files of the TensorFlow converter, in LiteRT against ONNX Runtime."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hub_onnxgraph.errors import UnsupportedOperator
from hub_tflite.runtime import LiteRtSession
from hub_tflite.to_onnx.edge import convert
from hub_tflite.to_onnx.registry import TABLE
from hub_tflitefile.interface import interface_of
from hub_tflitefile.schema import operator_name, operators, parse, to_bytes
from plugins.tflite.tests import tflite_handmade as handmade
from plugins.tflite.tests import tflite_operators as written

TOLERANCE = 1e-5
"""Relative to the largest value: float32 sums in another order."""
# They may only rise; measured 2026-11.
FLOOR, FLOOR_EVERY, FLOOR_OPERATORS = 349, 644, 139


class Verdict(NamedTuple):
    """What a case came to: `passed`, `refused` or `wrong`, with the reason, and the operators in its file."""

    word: str
    reason: str
    operators: frozenset[str]


def judge(content: bytes, feeds: Iterable[Any], folder: Path) -> Verdict:
    """Convert a file and compare both runtimes on the feeds, taken in the order x0, x1, …."""
    model = parse(content)
    names = frozenset(operator_name(model, operator) for _, operator in operators(model))
    path, output = folder / "case.tflite", folder / "case.onnx"
    path.write_bytes(content)
    try:
        convert(path, output)
    except UnsupportedOperator as refusal:
        return Verdict("refused", str(refusal), names)
    _, inputs, _ = interface_of(model)
    given = dict(zip(sorted(name for name, _ in inputs), feeds, strict=True))
    reason = difference(LiteRtSession(content).run(given), run_onnx(output, given))
    return Verdict("wrong" if reason else "passed", reason, names)


def run_onnx(path: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    import onnx
    import onnxruntime

    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))


def difference(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    """Say what differs; empty when nothing does."""
    if list(wanted) != list(found):
        return f"outputs {list(found)}, not {list(wanted)}"
    return next((f"{name}: {said}" for name in wanted if (said := _unlike(wanted[name], found[name]))), "")


def _unlike(wanted: Any, found: Any) -> str:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return f"{found.dtype}{found.shape}, not {wanted.dtype}{wanted.shape}"
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    off = np.abs(a - b).max(initial=0) / (np.abs(a).max(initial=0) + 1e-6)
    return "" if off <= TOLERANCE else f"off by {off:.2g}"


@cache
def _verdicts(folder: Path, *, every: bool) -> dict[str, Verdict]:
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        for case in written.cases(every=every):
            found[case.name] = judge(written.convert(case), written.draw(case), folder)
    for number, made in enumerate(handmade.good()):
        found[f"{made.name} by hand {number}"] = judge(to_bytes(made.model), made.feeds, folder)
    return found


def _check(verdicts: dict[str, Verdict], floor: int) -> None:
    counts = Counter(verdict.word for verdict in verdicts.values())
    print(f"\nTFLite operator cases: {counts['passed']} passed, {counts['refused']} refused, {counts['wrong']} wrong")  # noqa: T201 - a record
    wrong = [f"{name}: {verdict.reason}" for name, verdict in verdicts.items() if verdict.word == "wrong"]
    refused = {name: verdict.reason for name, verdict in verdicts.items() if verdict.word == "refused"}
    assert wrong == []
    assert refused == {}
    assert counts["passed"] >= floor
    covered = {name for verdict in verdicts.values() if verdict.word == "passed" for name in verdict.operators}
    rows = {name for _, name in TABLE.rows}
    print("rows without a case:", sorted(rows - covered))  # noqa: T201 - a record
    assert len(covered & rows) >= FLOOR_OPERATORS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operators")


def test_operators(folder: Path) -> None:
    _check(_verdicts(folder, every=False), FLOOR)


@pytest.mark.scheduled
def test_operators_in_every_variation(folder: Path) -> None:
    _check(_verdicts(folder, every=True), FLOOR_EVERY)


def test_the_judge_sees_a_planted_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = TABLE.rows["", "FULLY_CONNECTED"][1]

    def without_bias(node: Any, x: Any, w: Any, bias: Any = None, **options: Any) -> Any:
        del bias
        return row.handler(node, x, w, **options)

    faulty = dict.fromkeys(TABLE.rows["", "FULLY_CONNECTED"], dataclasses.replace(row, handler=without_bias))
    monkeypatch.setitem(TABLE.rows, ("", "FULLY_CONNECTED"), faulty)
    made = next(made for made in handmade.good() if made.name.startswith("FULLY_CONNECTED"))
    assert judge(to_bytes(made.model), made.feeds, folder).word == "wrong"


@pytest.mark.parametrize(
    ("make", "words"), list(handmade.refused()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_has_no_form_is_refused(make: Any, words: str, folder: Path) -> None:
    made = make()
    path = folder / "refused.tflite"
    path.write_bytes(to_bytes(made.model))
    with pytest.raises(UnsupportedOperator, match=words):
        convert(path, folder / "refused.onnx")
    assert not (folder / "refused.onnx").exists()
