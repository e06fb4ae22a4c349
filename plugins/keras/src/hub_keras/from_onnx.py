"""ONNX -> Keras, through hub's own importer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hub.spec import (
    PREPARED,
    Accepts,
    ConvertJob,
    ConvertOptions,
    Edge,
    Gives,
    IoBinding,
    Remark,
    StepError,
    StepOutput,
    UnsupportedModel,
)
from hub_keras.load import TENSORFLOW

if TYPE_CHECKING:
    from hub_keras.frameworks import KerasModel
    from hub_keras.onnx_importer.importer import Imported

_NHWC = (0, 2, 3, 1)
_REQUIRES = ("keras>=3.11", "h5py>=3.11", "onnx>=1.17", "hub-onnxgraph")


def convert_from_onnx(path: Path, options: ConvertOptions, output: Path) -> StepOutput:
    """Convert a prepared ONNX file to `.keras`.

    Raises:
        UnsupportedModel: It holds operators, or forms of them, that the importer does not know.
        StepError: Keras cannot write the model.
    """
    import onnx

    from hub_keras.load import import_keras
    from hub_keras.onnx_importer import import_onnx, unsupported_operators

    model = onnx.load(path)
    missing = unsupported_operators(model)
    if missing:
        reasons = "; ".join(f"{operator} ({reason})" for operator, reason in missing.items())
        raise UnsupportedModel(f"hub's ONNX importer does not know: {reasons}")
    import_keras("tensorflow")
    imported = import_onnx(model, options.io_layout)
    try:
        imported.model.save(output)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise StepError(f"Keras cannot save the model: {error}") from error
    return StepOutput(notes=notes_of(imported, len(model.graph.node)), bindings=tuple(_bindings(imported)))


def _convert(job: ConvertJob) -> StepOutput:
    return convert_from_onnx(Path(job.source.path), job.options, Path(job.output))


IMPORTER = Edge(
    id="keras.import-onnx",
    accepts=(Accepts(format="onnx", form=PREPARED),),
    gives=Gives(format="keras"),
    convert=_convert,
    honours=("io_layout",),
    keeps_dynamic=True,
    requires=(*_REQUIRES, TENSORFLOW),
    process="keras-tensorflow",
    cost=1.5,  # on the way to TFLite behind the importer to PyTorch, which is right on more models
    title="ONNX importer",
    formerly=("keras.import-onnx-dynamic",),
)
"""ONNX to Keras, from the forms that preparation writes."""


def notes_of(imported: Imported, nodes: int) -> tuple[Remark, ...]:
    """What was made, in words."""
    made = operations(imported.model)
    transposes = made["Transpose"] + made["Permute"]
    text = f"imported {nodes} ONNX nodes as {made.total()} Keras operations, {transposes} of them transposes"
    return (Remark("note", "imported", text),)


def operations(model: KerasModel) -> Counter[str]:
    """Classes of the layers and operations of a functional model, inputs left out."""
    found = Counter(type(operation).__name__ for operation in model.operations)
    del found["InputLayer"]
    return found


def _bindings(imported: Imported) -> list[IoBinding]:
    """Layout on request, and names without the slash."""
    sides: tuple[tuple[Literal["input", "output"], dict[str, str]], ...] = (
        ("input", imported.inputs),
        ("output", imported.outputs),
    )
    return [
        _binding(direction, source, target, moved=source in imported.moved)
        for direction, names in sides
        for source, target in names.items()
        if source != target or source in imported.moved
    ]


def _binding(direction: Literal["input", "output"], source: str, target: str, *, moved: bool) -> IoBinding:
    reasons = [
        *(["Keras takes no slash in a name"] if source != target else []),
        *(["layout nhwc on request"] if moved else []),
    ]
    return IoBinding(
        direction=direction,
        source=source,
        target=target,
        reason="; ".join(reasons),
        permutation=_NHWC if moved else (),
    )
