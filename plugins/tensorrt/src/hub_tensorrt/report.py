"""What stands beside a plan: `<stem>.layers.json`, the record of how it was built and what is in it."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from hub.spec import ExternalDataError, ModelUnreadable, Numerics, Signature
from hub_onnxgraph.graphs import all_tensors, with_inferred_shapes
from hub_onnxgraph.numerics import numerics_of
from hub_onnxgraph.signature import inputs_of, outputs_of

VERSION = 1
PRECISION_SUFFIX = ".precision.onnx"
LAYERS_SUFFIX = ".layers.json"

MULTIPLYING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"})
"""ONNX operators in which a precision is worth something; the others move, add and compare."""


class EngineLayer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One layer as the builder reports it.

    Attributes:
        name: TensorRT's name.
        kind: TensorRT's word: `correlation`, `gemm`, `kgen` (a generated kernel).
        precision: What it computes in, told from the element types of its inputs and its constants.
        nodes: Names of the ONNX nodes of whose work it does a part.
        covers: Their operators.
        stored: Elements of the largest tensor that it has stored.
    """

    name: str
    kind: str
    precision: str
    nodes: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()
    stored: int = 0


class EngineProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of one input: smallest, the one that is tuned for, largest."""

    smallest: tuple[int, ...]
    best: tuple[int, ...]
    largest: tuple[int, ...]

    def __str__(self) -> str:
        return " / ".join("x".join(map(str, shape)) for shape in (self.smallest, self.best, self.largest))


class EngineReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a plan was built and what is in it.

    Attributes:
        report_version: Of this record.
        library: The module that built the plan, and alone deserializes it.
        library_version: Its version; no other deserializes the plan.
        plan_sha256: Of the plan that this belongs to.
        precision_sha256: Of the precision ONNX, which is the plan's source of truth.
        numerics: What was asked for, and found in the layers; the precision ONNX must say the same.
        signature: Inputs and outputs as the built network has them, dimensions within the profile.
        profiles: Input -> sizes, where dimensions are open.
        built_for: Compute capabilities, `sm86`.
        settings: Builder settings.
        weights_bytes: Memory of the weights on the device, as the builder says; 0 where it does not.
        layers: As parsed from `raw`; empty where that could not be read.
        raw: The builder's own text.
    """

    report_version: int
    library: str
    library_version: str
    plan_sha256: str
    precision_sha256: str
    numerics: Numerics
    signature: Signature
    profiles: dict[str, EngineProfile] = {}
    built_for: tuple[str, ...] = ()
    settings: dict[str, str] = {}
    weights_bytes: int = 0
    layers: tuple[EngineLayer, ...] = ()
    raw: str = ""

    @property
    def products(self) -> dict[str, str]:
        """The ONNX file's multiplying operators -> the precision that each is computed in.

        TensorRT splits the work of one operator: a generated kernel quantizes what comes in, another adds the bias. The
        layer that multiplies is the one that is no generated kernel, or of those the one with the weights.
        """
        at: dict[str, EngineLayer] = {}
        for layer in self.layers:
            for node, operator in zip(layer.nodes, layer.covers, strict=True):
                before = at.get(node)
                if operator in MULTIPLYING and (before is None or _weight(layer) > _weight(before)):
                    at[node] = layer
        return {node: layer.precision for node, layer in at.items()}

    @property
    def multiplied_in(self) -> dict[str, int]:
        """Precision -> number of the ONNX file's multiplying operators that are computed in it."""
        return dict(Counter(self.products.values()).most_common())


def _weight(layer: EngineLayer) -> tuple[bool, int]:
    return layer.kind != "kgen", layer.stored


def beside(plan: Path, suffix: str) -> Path:
    """The side file of a plan."""
    return plan.with_name(f"{plan.stem}{suffix}")


def sha256_of(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_report(plan: Path) -> EngineReport:
    """Read what stands beside a plan.

    Raises:
        ExternalDataError: It is not there, or belongs to another plan.
        ModelUnreadable: It is damaged, or newer than this plugin.
    """
    file = beside(plan, LAYERS_SUFFIX)
    hint = "bring all three of a plan's files: .engine, .precision.onnx and .layers.json; or build it with hub"
    if not file.is_file():
        message = f"{plan.name} stands alone: a plan does not tell its inputs and outputs without being deserialized, "
        raise ExternalDataError(f"{message}which may run code; {file.name} is not beside it", hint=hint)
    try:
        report = msgspec.json.decode(file.read_bytes(), type=EngineReport)
    except msgspec.MsgspecError as error:
        raise ModelUnreadable(f"{file.name} is damaged: {error}", hint=hint) from error
    if report.report_version > VERSION:
        raise ModelUnreadable(f"{file.name} is of version {report.report_version}", hint="pip install -U hub-tensorrt")
    if report.plan_sha256 != sha256_of(plan):
        raise ExternalDataError(f"{file.name} belongs to another plan than {plan.name}", hint=hint)
    precision = beside(plan, PRECISION_SUFFIX)
    if not precision.is_file():
        raise ExternalDataError(f"{precision.name}, of which {plan.name} was built, is not beside it", hint=hint)
    if report.precision_sha256 != sha256_of(precision):
        raise ExternalDataError(f"{precision.name} is not the file of which {plan.name} was built", hint=hint)
    _check_told(report, precision, file.name, hint)
    return report


def _check_told(report: EngineReport, precision: Path, name: str, hint: str) -> None:
    """Hold what a report says of the plan against the precision ONNX, which says it by itself.

    Raises:
        ModelUnreadable: The precision ONNX is damaged.
        ExternalDataError: Its weights are not beside it, or the report says something else.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = with_inferred_shapes(onnx.load(precision, load_external_data=False))
    except DecodeError as error:
        raise ModelUnreadable(f"{precision.name} is damaged: {error}", hint=hint) from error
    outside = (item for tensor in all_tensors(model) for item in tensor.external_data if item.key == "location")
    lost = sorted({item.value for item in outside if not precision.with_name(item.value).exists()})
    if lost:
        raise ExternalDataError(f"{', '.join(lost)}, with weights of {precision.name}, is not beside it", hint=hint)
    said = [report.numerics.value, *(spec.name for spec in (*report.signature.inputs, *report.signature.outputs))]
    true = [numerics_of(model).value, *(info.name for info in (*inputs_of(model.graph), *outputs_of(model.graph)))]
    if said != true:
        message = f"{name} says {', '.join(said)}, and {precision.name}, of which the plan was built, {', '.join(true)}"
        raise ExternalDataError(message, hint=hint)


_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), (?P<rest>.*)$")
_PART = re.compile(r"(Inputs|Constants|Outputs): \[(?P<items>.*?)\](?=, (?:Constants|Outputs|TacticName|StreamId)|$)")
_TENSOR = re.compile(r"\{ Name: (?P<name>[^{}]*?), Dimensions: \[(?P<dims>[^\]]*)\][^{}]*?Datatype: (?P<type>\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_WORDS = {
    "Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "BF16": "bf16", "Int8": "int8", "FP8": "fp8", "Int4": "int4",
    "FP4": "fp4",
}  # fmt: skip
_FLOATS = ("fp32", "fp16", "bf16")
_NARROW = ("int8", "fp8", "int4", "fp4")


def parse_layers(raw: str, operators: Mapping[str, str]) -> tuple[EngineLayer, ...]:
    """Read the builder's `Layers:` message, line by line; lines that are no layers are passed over.

    It is a text for people and no interface: what cannot be read is missing, never guessed.

    Args:
        raw: The message.
        operators: Name of an ONNX node, as TensorRT calls it -> operator.
    """
    return tuple(_layers(raw, operators))


def _layers(raw: str, operators: Mapping[str, str]) -> Iterator[EngineLayer]:
    for line in raw.splitlines():
        found = _LAYER.match(line.strip())
        if not found:
            continue
        nodes = tuple(name for name in dict.fromkeys(_NODE.findall(line)) if name in operators)
        yield EngineLayer(
            name=found["name"],
            kind=found["kind"],
            precision=_precision(found["rest"]),
            nodes=nodes,
            covers=tuple(operators[node] for node in nodes),
            stored=_stored(found["rest"]),
        )


def _stored(rest: str) -> int:
    constants = (part["items"] for part in _PART.finditer(rest) if part[1] == "Constants")
    shapes = (tensor["dims"].split(",") for items in constants for tensor in _TENSOR.finditer(items))
    return max((math.prod(int(size) for size in shape if size.strip().isdigit()) for shape in shapes), default=0)


def _precision(rest: str) -> str:
    """`int8`, `fp16`, `int4-weights` …: by the types of what flows in, and of stored tensors that are no scalars."""
    flows, stored = [], []
    for part in _PART.finditer(rest):
        for tensor in _TENSOR.finditer(part["items"]):
            word = _WORDS.get(tensor["type"], "integer")
            if part[1] == "Inputs":
                flows.append(word)
            elif part[1] == "Constants" and tensor["dims"].count(",") > 0:  # a matrix at least: a vector is a scale
                stored.append(word)
    narrow = next((word for word in flows if word in _NARROW), "")
    packed = next((word for word in stored if word in _NARROW), "")
    if narrow and (packed or not stored):
        return narrow
    if packed:
        return f"{packed}-weights"
    return next((word for word in (*stored, *flows) if word in _FLOATS), narrow or "integer")


def onnx_operators(path: Path) -> dict[str, str]:
    """Names of an ONNX file's nodes as TensorRT calls them -> operator; it names those that have no name."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    found: dict[str, str] = {}
    for node in model.graph.node:
        found[node.name or f"node_of_{node.output[0]}"] = node.op_type
    return found
