"""What hub's planner sees of the importer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hub.spec import (
    YES,
    Converter,
    ConvertJob,
    ConvertOptions,
    Edge,
    IoBinding,
    ModelSummary,
    Numerics,
    State,
    StepOutput,
    Support,
    Toolchain,
    UsageError,
    Verdict,
)
from hub_tflite.numerics import MULTIPLY_OPERATORS
from hub_tflite.to_onnx.hybrid import KERNELS
from hub_tflite.to_onnx.table import unknown_operators


def _edge(source: Numerics, target: Numerics, suffix: str) -> Edge:
    return Edge(
        id=f"tflite.onnx{suffix}",
        source=State(format="tflite", numerics=source),
        target=State(format="onnx", numerics=target),
        keeps_dynamic=True,
        requires=("ai-edge-litert", "onnx-ir"),
        process="tflite",
        title="TFLite importer",
    )


_KEPT = tuple(numerics for numerics in Numerics if numerics not in {Numerics.FP32, Numerics.FP8})
FLOAT_EDGE = _edge(Numerics.FP32, Numerics.FP32, "")
PRODUCTS_EDGE = _edge(Numerics.INT8_MIXED, Numerics.INT8, "-int8-products")
TABLES_EDGE = _edge(Numerics.INT8_DYNAMIC, Numerics.INT8_WEIGHTS, "-int8-tables")
EDGES = (
    FLOAT_EDGE, *(_edge(numerics, numerics, f"-{numerics.value}") for numerics in _KEPT), PRODUCTS_EDGE, TABLES_EDGE
)  # fmt: skip
"""One per numerics, which the file keeps, and two for files that ONNX has another word for; see `_other_word`."""


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
    from hub_tflite.schema import read
    from hub_tflite.to_onnx.importer import Importer
    from hub_tflite.to_onnx.write import save, tidy

    content = read(source)
    fix_shapes(content, shapes or {})
    importer = Importer(content)
    model = importer.run()
    tidy(model)
    save(model, output)
    reason = "an input has this name too, and ONNX gives each value a name of its own"
    bindings = (
        IoBinding(direction="output", source=old, target=new, reason=reason) for old, new in importer.renamed.items()
    )
    return StepOutput(notes=tuple(importer.notes), bindings=tuple(bindings))


def fix_shapes(model: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give inputs of the main subgraph fixed sizes, in place.

    Raises:
        UsageError: There is no such input, or its fixed sizes are others.
    """
    from hub_tflite.describe import border
    from hub_tflite.schema import numbers

    graph, inputs, _ = border(model)
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


def _other_word(edge: Edge, summary: ModelSummary) -> str:
    """Say why the result would not be in the edge's numerics; empty where it is.

    An ONNX file is `int8` when every operator that multiplies is, a TFLite file when every operator that computes is.
    `int8-dynamic` is said of products in both, but of a table with int8 rows only in TFLite.
    """
    products = [layer for layer in summary.layers if layer.operator in MULTIPLY_OPERATORS]
    words = {layer.precision for layer in products}
    if edge.source.numerics == Numerics.INT8_MIXED and (edge is PRODUCTS_EDGE) != (
        words <= {"int8", "uint8", "integer"}
    ):
        return (
            "all its products are in int8" if edge is not PRODUCTS_EDGE else f"products in {', '.join(sorted(words))}"
        )
    on_the_fly = any(layer.operator in KERNELS and layer.precision == "int8-dynamic" for layer in products)
    if edge.source.numerics == Numerics.INT8_DYNAMIC and (edge is TABLES_EDGE) == on_the_fly:
        return (
            "it has products with int8 weights" if on_the_fly else "no product has int8 weights, only tables and others"
        )
    return ""


class OnnxWriter:
    """The edges from TFLite to ONNX by hub's own importer."""

    @property
    def edges(self) -> Sequence[Edge]:
        """One per numerics, and one per difference of words; see `EDGES`."""
        return EDGES

    @property
    def toolchains(self) -> Sequence[Toolchain]:
        """None: everything lives in the user's environment."""
        return ()

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
        """Says no to operators that the table does not have, and to changes of the border."""
        missing = unknown_operators(summary.operators)
        if missing:
            reason = f"the importer has no ONNX form of {', '.join(missing)}"
            return Verdict(support=Support.NOTIMPL, reason=reason, hint="export the model without them")
        asked = [name for name in ("io_layout", "io_dtype", "constants") if getattr(options, name)]
        if asked:
            return Verdict(support=Support.NEVER, reason=f"{', '.join(asked)}: the importer keeps the border as it is")
        reason = _other_word(edge, summary)
        return Verdict(support=Support.NEVER, reason=reason) if reason else YES

    def convert(self, job: ConvertJob) -> StepOutput:
        """Runs the edge; see `convert`.

        Raises:
            UnsupportedModel: An operator, or a form of it, has no translation.
            UsageError: A shape that is asked for does not fit.
        """
        return convert(Path(job.source.path), Path(job.output), job.options.shapes)


_: type[Converter] = OnnxWriter
