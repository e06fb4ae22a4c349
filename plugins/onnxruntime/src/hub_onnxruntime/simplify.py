"""Simplifies a graph with the tool that gets it right: onnxslim, ONNX Runtime's basic optimization, or onnxsim."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import Remark
from hub_onnxgraph.signature import inputs_of, outputs_of
from hub_onnxruntime import compare
from hub_onnxruntime.files import check, external_tensors, save

if TYPE_CHECKING:
    import onnx

    from hub.spec.calibration import Feeds

# Simplifying reorders float32 sums (1e-6 to 1e-4 on the networks measured); a wrong graph is off by 1e-2 and more.
# The core's parity gate is the strict one: this bound only tells a tool that broke the graph from one that did not.
WRONG_ABOVE = 5e-3
_TIMEOUT_S = 900


class SimplifiedModel(NamedTuple):
    """A simplified model, what made it, and what was said about the tools before it."""

    model: onnx.ModelProto
    notes: list[Remark]


class Rejected(Exception):
    """This tool's result is no good; the text says why."""


def _onnxslim(model: onnx.ModelProto, _scratch: Path) -> onnx.ModelProto:
    import onnxslim

    simplified: onnx.ModelProto = onnxslim.slim(model)
    return simplified


def _ort_basic(model: onnx.ModelProto, scratch: Path) -> onnx.ModelProto:
    import onnx

    source, target = scratch / "ort-basic-in.onnx", scratch / "ort-basic-out.onnx"
    save(model, source)
    answer = _script("--optimize", str(source), str(target))
    if answer.failure:
        raise Rejected(answer.failure)
    return onnx.load(target)


def _onnxsim(model: onnx.ModelProto, _scratch: Path) -> onnx.ModelProto:
    onnxsim = importlib.import_module("onnxsim")  # optional: without it the next tool is tried
    simplified: onnx.ModelProto
    simplified, valid = onnxsim.simplify(model)
    if not valid:
        raise Rejected("its own check failed")
    return simplified


def _unchanged(model: onnx.ModelProto, _scratch: Path) -> onnx.ModelProto:
    return model


_UNSIMPLIFIED = "no tool"
# In the order of how many hard graphs they got right (onnxslim 9 of 9, ONNX Runtime 8, onnxsim 6).
TOOLS: dict[str, Callable[[onnx.ModelProto, Path], onnx.ModelProto]] = {
    "onnxslim": _onnxslim,
    "ONNX Runtime's basic optimization": _ort_basic,
    "onnxsim": _onnxsim,
    _UNSIMPLIFIED: _unchanged,
}


class Answer(NamedTuple):
    """What `compare.py` printed, and why it failed; `failure` is empty when it did not."""

    text: str
    failure: str


def _script(*arguments: str) -> Answer:
    """Runs `compare.py` in a process of its own."""
    command = [sys.executable, str(Path(compare.__file__)), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Answer("", f"ONNX Runtime did not end within {_TIMEOUT_S} s")
    if done.returncode < 0:
        return Answer(done.stdout, f"ONNX Runtime ended with signal {-done.returncode}")
    last = (done.stderr.strip().splitlines() or ["ONNX Runtime failed"])[-1]
    return Answer(done.stdout, last[:300] if done.returncode else "")


class Oracle:
    """Tells whether a candidate computes what the original file computes, both in ONNX Runtime, in another process.

    Args:
        original: The file as the user gave it.
        feeds: Inputs for the original, frozen ones included: the first two that it runs on are used.
        scratch: A folder for files.

    Attributes:
        ran: Whether the original ran on these inputs the last time, so that there was something to compare with.
        notes: What must be said of the comparison: that the original itself did not run on these inputs, so that tools
            are checked for validity only; or at how many sizes a model with open dims was compared.
    """

    def __init__(self, original: Path, feeds: Sequence[Feeds], scratch: Path) -> None:
        import numpy as np

        self._original, self.scratch = original, scratch
        self._shapes = [
            ", ".join(f"{name}={'x'.join(map(str, array.shape)) or 'scalar'}" for name, array in item.items())
            for item in feeds
        ]
        self._files = [str(scratch / f"feeds{index}.npz") for index in range(len(feeds))]
        self.notes: list[Remark] = []
        self.ran = False
        for file, item in zip(self._files, feeds, strict=True):
            np.savez(file, **item)  # type: ignore[arg-type]  # numpy's stub takes a bool named allow_pickle

    def error_of(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        """Returns (largest relative error, the original's own noise).

        Raises:
            Rejected: The candidate did not run.
        """
        path = self.scratch / "candidate.onnx"
        save(candidate, path)
        answer = _script(str(self._original), str(path), *self._files)
        self.ran = compare.REFERENCE_RAN in answer.text
        if not self.ran:
            text = f"simplification was checked for validity only: the original did not run: {answer.failure}"
            self.notes = [Remark("note", "simplification-unproved", text)]
            return 0.0, 0.0
        if answer.failure:
            raise Rejected(answer.failure)
        measured = json.loads(answer.text.splitlines()[-1])
        if len(self._files) > 1:
            used = " and ".join(self._shapes[place] for place in measured["feeds"])
            text = f"compared the simplified graph with the original at {used}"
            self.notes = [Remark("note", "simplification-compared", text)]
        return float(measured["error"]), float(measured["noise"])


def _check(before: onnx.ModelProto, after: onnx.ModelProto, oracle: Oracle) -> None:
    import onnx

    try:
        check(after, oracle.scratch)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Rejected(f"it wrote an invalid model: {str(error).strip().splitlines()[0]}") from error
    for read in (inputs_of, outputs_of):
        wanted = [(info.name, info.dtype) for info in read(before.graph)]
        found = [(info.name, info.dtype) for info in read(after.graph)]
        if wanted != found:
            raise Rejected(f"it changed inputs or outputs from {wanted} to {found}")
    difference, noise = oracle.error_of(after)
    if difference > max(WRONG_ABOVE, 10 * noise):
        raise Rejected(f"its result differs by {difference:.2g} relative from the original in ONNX Runtime")


def restore_inputs(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Puts back, in their order, inputs that a tool removed because nothing reads them, and the names of open dims."""
    kept = {info.name for info in inputs_of(after.graph)}
    if kept <= {info.name for info in inputs_of(before.graph)}:
        del after.graph.input[:]
        after.graph.input.extend(before.graph.input)


def _attempt(name: str, model: onnx.ModelProto, oracle: Oracle, scratch: Path) -> onnx.ModelProto:
    try:
        # Some of them change the model that they are given.
        result = TOOLS[name](copy.deepcopy(model), scratch)
    except Rejected:
        raise
    except Exception as error:  # the boundary to tools that raise whatever they meet: any failure means the next tool
        raise Rejected(f"it failed: {type(error).__name__}: {str(error).strip()[:200]}") from error
    restore_inputs(model, result)
    _check(model, result, oracle)
    return result


def attempts(
    model: onnx.ModelProto, oracle: Oracle, scratch: Path
) -> Iterator[tuple[str, onnx.ModelProto | None, str]]:
    """Yields (tool, model or None, reason) for each tool in turn."""
    for name in (_UNSIMPLIFIED,) if external_tensors(model) else TOOLS:
        try:
            yield name, _attempt(name, model, oracle, scratch), ""
        except Rejected as reason:
            yield name, None, str(reason)


def simplify(model: onnx.ModelProto, oracle: Oracle, scratch: Path) -> SimplifiedModel:
    """Returns the first tool's result that is valid, keeps the inputs and outputs, and computes the same.

    Raises:
        Rejected: Not even the model as given passes, with every tool's reason.
    """
    notes = []
    before = len(model.graph.node)
    for name, result, reason in attempts(model, oracle, scratch):
        if result is not None:
            if name != _UNSIMPLIFIED:
                text = f"simplified with {name}: {before} -> {len(result.graph.node)} operators"
                notes.append(Remark("note", "simplified", text))
            return SimplifiedModel(result, notes)
        notes.append(Remark("note", "simplifier-rejected", f"rejected {name}: {reason}"))
    raise Rejected("; ".join(note.text for note in notes))
