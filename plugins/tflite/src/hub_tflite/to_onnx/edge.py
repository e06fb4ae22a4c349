"""What hub's planner sees of the importer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import (
    ANY,
    KEEP,
    YES,
    Accepts,
    ConvertJob,
    ConvertOptions,
    Edge,
    Gives,
    IoBinding,
    ModelSummary,
    Numerics,
    StepOutput,
    Support,
    UsageError,
    Verdict,
)
from hub_tflite.to_onnx.registry import TABLE

if TYPE_CHECKING:
    from hub_tflitefile.tables import ModelT


def convert(source: Path, output: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> StepOutput:
    """Translate a file.

    Args:
        source: The TFLite file.
        output: The ONNX file to write; weights above `write.EXTERNAL_ABOVE_BYTES` go to `<output>.data` beside it.
        shapes: Input -> sizes to fix its open dimensions to; without, they stay open.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: It is truncated, corrupt or not TFLite.
        UnsupportedModel: An operator, or a form of it, has no translation.
    """
    from hub_tflite.to_onnx.importer import TfliteImporter
    from hub_tflite.to_onnx.write import save, tidy
    from hub_tflitefile.schema import read

    content = read(source)
    fix_shapes(content, shapes or {})
    importer = TfliteImporter(content)
    model = importer.run()
    tidy(model)
    save(model, output)
    reason = "an input has this name too, and ONNX gives each value a name of its own"
    bindings = (
        IoBinding(direction="output", source=old, target=new, reason=reason) for old, new in importer.renamed.items()
    )
    return StepOutput(notes=tuple(importer.file.notes), bindings=tuple(bindings))


def fix_shapes(model: ModelT, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give inputs of the main subgraph fixed sizes, in place.

    Raises:
        UsageError: There is no such input, or its fixed sizes are others.
    """
    from hub_tflitefile.interface import interface_of
    from hub_tflitefile.schema import numbers

    graph, inputs, _ = interface_of(model)
    places = dict(inputs)
    for name, shape in shapes.items():
        if name not in places:
            raise UsageError(f"there is no input {name}, only {', '.join(places)}")
        tensor = graph.tensors[places[name]]
        declared = numbers(tensor.shapeSignature) or numbers(tensor.shape)
        fits = len(declared) == len(shape) and all(d in {-1, s} for d, s in zip(declared, shape, strict=True))
        if not fits:
            raise UsageError(f"{name} is {declared}, which {list(shape)} does not fit")
        tensor.shape, tensor.shapeSignature = list(shape), None


def takes_known(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Says no to operators that the table does not have."""
    del options
    missing = sorted(name for name in summary.operators if not TABLE.has(name))
    if not missing:
        return YES
    reason = f"the importer has no ONNX form of {', '.join(missing)}"
    return Verdict(support=Support.NOTIMPL, reason=reason, hint="export the model without them")


def _run(job: ConvertJob) -> StepOutput:
    return convert(Path(job.source.path), Path(job.output), job.options.shapes)


IMPORTER = Edge(
    id="tflite.onnx",
    accepts=(Accepts(format="tflite", numerics=ANY),),
    gives=Gives(
        format="onnx",
        numerics=KEEP,
        # ONNX calls a file int8 when every operator that multiplies is, TFLite when every one that computes is; and
        # `int8-dynamic` is said of products in both, but of a table with int8 rows only in TFLite.
        read_as={Numerics.INT8_MIXED: Numerics.INT8, Numerics.INT8_DYNAMIC: Numerics.INT8_WEIGHTS},
    ),
    convert=_run,
    check=takes_known,
    keeps_dynamic=True,
    requires=("ai-edge-litert", "onnx-ir"),
    process="tflite",
    title="TFLite importer",
    formerly=(
        *(f"tflite.onnx-{item.value}" for item in Numerics if item not in {Numerics.FP32, Numerics.FP8}),
        "tflite.onnx-int8-products",
        "tflite.onnx-int8-tables",
    ),
)
"""From TFLite to ONNX by hub's own importer, which keeps the file's numerics."""
