"""ONNX (static form) -> exported program, through hub's own importer. Runs in a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub.spec import Signature, StepOutput, TensorSpec, UnsupportedModel
from hub_pytorch.adapt import words
from hub_pytorch.export import export_module, save_exported
from hub_pytorch.program import module_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def convert_from_onnx(path: Path, signature: Signature, output: Path) -> StepOutput:
    """Convert a prepared ONNX file (fixed shapes, folded control flow) to `.pt2`.

    Args:
        path: The ONNX file.
        signature: Its inputs and outputs, all of them static.
        output: File to write. It holds the ONNX names of inputs and outputs.

    Raises:
        UnsupportedModel: It holds operators that the importer does not know.
    """
    import onnx

    from hub_pytorch.onnx_importer import import_onnx, unsupported_operators

    model = onnx.load(path)
    missing = unsupported_operators(model)
    if missing:
        reasons = "; ".join(f"{operator} ({reason})" for operator, reason in missing.items())
        raise UnsupportedModel(f"hub's ONNX importer does not know: {reasons}")
    exported = export_graph(import_onnx(model), signature)
    save_exported(exported, signature, output)
    return StepOutput(notes=(f"imported {len(model.graph.node)} ONNX nodes as a PyTorch graph",))


def export_graph(graph: Any, signature: Signature) -> Any:
    """Export an imported graph; inputs go in by position, outputs come out by position."""
    names = words([spec.name for spec in signature.inputs])
    outputs = words([spec.name for spec in signature.outputs])

    def call(**feeds: Any) -> dict[str, Any]:
        results = graph(*(feeds[name] for name in names))
        return dict(zip(outputs, _as_tuple(results), strict=True))

    inputs = tuple(
        TensorSpec(name=name, dtype=spec.dtype, shape=spec.shape)
        for name, spec in zip(names, signature.inputs, strict=True)
    )
    exported, _ = export_module(module_of(call, graph), inputs, by_name=True)
    return exported


def _as_tuple(results: Any) -> Sequence[Any]:
    return results if isinstance(results, tuple | list) else (results,)
