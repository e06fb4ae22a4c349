"""The fusions of `onnxruntime.transformers`, tried on a copy and kept only where the fused graph computes the same.

Its matchers are written for the exporters of known model families, one family at a time, and are wrong on graphs that
only look alike. So each family's result is run against the graph before it in ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import Remark
from hub_onnxgraph.graphs import all_nodes
from hub_onnxgraph.numerics import operator_key
from hub_onnxquant.random_inputs import random_feeds, sizes_to_try
from hub_onnxruntime.files import save
from hub_onnxruntime.simplify import WRONG_ABOVE, Oracle, Rejected, restore_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

FAMILIES = ("bert", "gpt2", "bart", "clip", "conformer", "t5")
"""Model families of `onnxruntime.transformers.optimizer.MODEL_TYPES`, in the order they are tried."""

_ATTENTION = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention"})
_NORMS = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"})
SPOILERS = ("ConstantSharing", "MatMulAddFusion", "ReshapeFusion")
"""Optimizers of ONNX Runtime's basic level that rewrite what the matchers look for."""


class FusedModel(NamedTuple):
    """A graph with fusions, what was done and undone, and whether it is another one than before."""

    model: onnx.ModelProto
    notes: list[Remark]
    fused: bool = False


def looks_like_a_transformer(model: onnx.ModelProto) -> bool:
    """Whether there is something for the fusions: attention, or layer normalization."""
    counts = Counter(node.op_type for node in all_nodes(model))
    attention = counts["Softmax"] and counts["MatMul"] > counts["Softmax"]
    spelled_out = counts["ReduceMean"] and counts["Sqrt"] and (counts["Pow"] or counts["Mul"])
    return bool(attention or spelled_out or any(counts[name] for name in _NORMS))


def fuse(model: onnx.ModelProto, scratch: Path, seed: int) -> FusedModel:
    """Applies the family's fusions that fit best, attention first.

    Args:
        model: In one piece. It is not changed.
        scratch: A folder for files.
        seed: For the random inputs on which graphs are compared.

    Returns:
        The model as it was, where no fusion is found or none is right.
    """
    path = scratch / "unfused.onnx"
    save(model, path)
    oracle = Oracle(path, [random_feeds(model, seed, sizes) for sizes in sizes_to_try(model)], scratch)
    # A Softmax between two MatMul, behind a scale and a mask at most and directly before the second, is an attention.
    makers = {name: node for node in model.graph.node for name in node.output}
    before = {node.output[0] for node in model.graph.node if node.op_type == "Softmax" and _is_scores(node, makers)}
    used = {name for node in model.graph.node if node.op_type == "MatMul" for name in node.input[:1]}
    wanted = len(before & used)
    candidates, notes = _candidates(model, wanted)
    for family, candidate in sorted(candidates.items(), key=lambda item: _score(item[1], model), reverse=True):
        try:
            check_same(model, candidate, oracle)
        except Rejected as reason:
            text = f"undid the {family} fusions of onnxruntime.transformers: {reason}"
            notes.append(Remark("note", "fusions-undone", text))
            continue
        how = f"; {oracle.notes[0].text}" if oracle.notes else ""
        sizes = f"{len(model.graph.node)} -> {len(candidate.graph.node)} operators"
        text = f"onnxruntime.transformers ({family}): {_made_words(_made(model, candidate))}; {sizes}{how}"
        notes.append(Remark("note", "transformer-fusions", text))
        return FusedModel(candidate, [*notes, *_left_over(wanted, candidate, model)], fused=True)
    return FusedModel(model, [*notes, *_left_over(wanted, model, model)])


def _candidates(model: onnx.ModelProto, wanted: int) -> tuple[dict[str, onnx.ModelProto], list[Remark]]:
    """Returns family -> fused graph, no two of the same operators, up to the first that fuses all attention."""
    found: dict[str, onnx.ModelProto] = {}
    seen: list[dict[str, int]] = [{}]
    notes = []
    for family in FAMILIES if wanted else FAMILIES[:1]:
        try:
            fused = _apply(family, model)
        except Rejected as reason:
            text = f"left out the {family} fusions of onnxruntime.transformers: {reason}"
            notes.append(Remark("note", "fusions-failed", text))
            continue
        if _made(model, fused) not in seen:
            seen.append(_made(model, fused))
            found[family] = fused
        if wanted and _score(fused, model)[0] >= wanted:
            break
    return found, notes


def _is_scores(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], steps: int = 4) -> bool:
    ahead = [makers[name] for name in node.input if name in makers]
    if any(maker.op_type == "MatMul" for maker in ahead):
        return True
    return steps > 0 and any(_is_scores(maker, makers, steps - 1) for maker in ahead if maker.op_type in _BETWEEN)


_BETWEEN = frozenset({"Add", "Mul", "Div", "Where", "Cast", "Reshape", "Max", "Clip"})


def _counts(model: onnx.ModelProto) -> Counter[str]:
    return Counter(map(operator_key, all_nodes(model)))


def _made(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, int]:
    """Operators of ONNX Runtime's that the fusions made -> how many."""
    made = _counts(after) - _counts(before)
    return {name.split("::")[1]: count for name, count in sorted(made.items()) if "::" in name}


def _score(after: onnx.ModelProto, before: onnx.ModelProto) -> tuple[int, int]:
    """(attention blocks, operators saved)."""
    made = _made(before, after)
    attention = sum(count for name, count in made.items() if name in _ATTENTION)
    return attention, len(before.graph.node) - len(after.graph.node) if made else 0


def check_same(model: onnx.ModelProto, fused: onnx.ModelProto, oracle: Oracle) -> None:
    """Compares a fused graph with the one before.

    Raises:
        Rejected: It is wrong, or nothing could be compared.
    """
    difference, noise = oracle.error_of(fused)
    if not oracle.ran:
        raise Rejected(f"nothing proves them: {oracle.notes[0].text}")
    if difference > max(WRONG_ABOVE / 5, 10 * noise):
        raise Rejected(f"the result differs by {difference:.2g} relative ({_made_words(_made(model, fused))})")


def _apply(family: str, model: onnx.ModelProto) -> onnx.ModelProto:
    with _quiet():
        tool = importlib.import_module("onnxruntime.transformers.optimizer")
        options = importlib.import_module("onnxruntime.transformers.fusion_options")
        settings = options.FusionOptions(family)
        # Most of the time goes there, and what needs it (SkipLayerNormalization) the first family has already found.
        settings.enable_shape_inference = family == FAMILIES[0]
        if family == "bert":  # its default takes a mask for a length, which is wrong unless padding is on the right
            settings.use_raw_attention_mask()
        try:
            # It changes the model that it is given.
            fused: onnx.ModelProto = tool.optimize_by_fusion(deepcopy(model), family, 0, 0, settings).model
        except Exception as error:  # the boundary to matchers that raise whatever they meet: the graph stays as it is
            raise Rejected(f"they failed with {type(error).__name__}: {str(error)[:200]}") from error
    restore_inputs(model, fused)
    return fused


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the tool's warnings and progress bars out of the log: each family complains of all the others' models."""
    logging.disable(logging.WARNING)
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stderr(nowhere),
            contextlib.redirect_stdout(nowhere),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _made_words(made: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in made.items())


def _left_over(wanted: int, after: onnx.ModelProto, before: onnx.ModelProto) -> list[Remark]:
    guards = sum(node.op_type == "IsNaN" for node in before.graph.node)
    left = wanted - _score(after, before)[0]
    notes = []
    if left > 0:
        text = f"{left} attention blocks stay as single operators: no family's pattern fits them"
        notes.append(Remark("note", "attention-unfused", text))
    if guards:
        text = f"{guards} attention blocks guard against NaN (IsNaN, Where), which no fused operator does"
        notes.append(Remark("note", "attention-guarded", text))
    return notes
