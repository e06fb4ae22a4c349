"""OpenVINO IR as it stands in the file: an XML document of layers and edges, with the weights in a `.bin` beside it.

Read with expat, which is told to refuse a document type: no entity is ever expanded, from inside or outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from hub.spec import ExternalDataError, ModelUnreadable

ROOT = "net"
OLDEST_VERSION = 10
"""IR versions below 10 (2020 and before) are no longer read by OpenVINO."""

BORDER = frozenset({"Parameter", "Result"})
_ENTITIES = "it declares a document type, and an IR has none: such files are refused unread"
_COMMA = re.compile(r"(?<!\\),")


class _Refused(Exception):
    """The document holds what no IR holds."""


class _FirstTag(Exception):
    """The first tag was seen; the rest is not needed."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        super().__init__(tag)
        self.tag, self.attributes = tag, attributes


@dataclass(frozen=True, slots=True)
class IrPort:
    """One input or output of a layer: its number, element type (`FP32`), sizes (-1: open), and tensor names."""

    number: int
    precision: str
    dims: tuple[int, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IrLayer:
    """One layer.

    Attributes:
        key: The layer's number in its graph.
        name: Its friendly name.
        type: The operator: `Convolution`.
        opset: `opset1`, or another word for operators that are not in a public set.
        data: Attributes of its `<data>` tag.
        inputs: Input ports.
        outputs: Output ports.
        bodies: Graphs inside it (`If`, `Loop`, `TensorIterator`).
        notes: Names of its runtime information: `decompression`.
    """

    key: int
    name: str
    type: str
    opset: str
    data: Mapping[str, str]
    inputs: tuple[IrPort, ...]
    outputs: tuple[IrPort, ...]
    bodies: tuple[IrGraph, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether it is a stored tensor."""
        return self.type == "Const"


@dataclass(frozen=True)
class IrGraph:
    """Layers in file order, which is topological, with who feeds whom."""

    nodes: Mapping[int, IrLayer]
    feeds: Mapping[tuple[int, int], int] = field(default_factory=dict)

    def source(self, node: IrLayer, place: int) -> IrLayer | None:
        """The layer that feeds the input at a place; None where there is none."""
        if place >= len(node.inputs):
            return None
        return self.nodes.get(self.feeds.get((node.key, node.inputs[place].number), -1))

    @cached_property
    def computing(self) -> tuple[IrLayer, ...]:
        """Layers that are no constants and no border."""
        return tuple(node for node in self.nodes.values() if not node.is_constant and node.type not in BORDER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ir:
    """A file.

    Attributes:
        name: The model's name.
        version: IR version, 10 or 11.
        graph: The main graph.
        info: Runtime information of the whole model, flattened: `conversion_parameters/input_model` -> value.
    """

    name: str
    version: int
    graph: IrGraph
    info: Mapping[str, str]


def graphs_of(graph: IrGraph) -> Iterator[IrGraph]:
    """Yields a graph and every graph inside its layers."""
    yield graph
    for node in graph.nodes.values():
        for body in node.bodies:
            yield from graphs_of(body)


def first_tag(header: bytes) -> tuple[str, dict[str, str]] | None:
    """Returns tag and attributes of an XML document's root; None where the bytes do not start like XML.

    Raises:
        ModelUnreadable: It starts like an IR, and declares a document type.
    """
    if header[:1] not in (b"<", b"\xef", b" ", b"\n", b"\r", b"\t"):
        return None
    parser = expat.ParserCreate()
    doctypes: list[str] = []

    def seen(tag: str, attributes: dict[str, str]) -> None:
        raise _FirstTag(tag, attributes)

    parser.StartElementHandler = seen
    parser.StartDoctypeDeclHandler = lambda name, *_: doctypes.append(name)
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(header, False)  # noqa: FBT003 expat takes it by position
    except _FirstTag as found:
        if doctypes and found.tag == ROOT:
            raise ModelUnreadable(f"this IR is refused: {_ENTITIES}", hint="save it again with OpenVINO") from found
        return found.tag, found.attributes
    except _Refused as error:
        if ROOT in doctypes:
            raise ModelUnreadable(f"this IR is refused: {_ENTITIES}", hint="save it again with OpenVINO") from error
    except expat.ExpatError:
        pass
    return None


def _refuse(*_: object) -> None:
    raise _Refused


def read_ir(path: Path) -> Ir:
    """Reads the XML file; the weights are not touched.

    Raises:
        ModelUnreadable: It is no IR, is truncated, declares a document type, or is of a version that is too old.
    """
    root = _parsed(path)
    version = root.get("version", "")
    if root.tag != ROOT or not version.isdigit():
        raise ModelUnreadable(f"{path.name} is no OpenVINO IR: its root is <{root.tag}>", hint="export the model again")
    check_version(path, version)
    try:
        info = root.find("rt_info")
        flat = dict(_flat(info, "")) if info is not None else {}
        return Ir(name=root.get("name", ""), version=int(version), graph=_graph(root), info=flat)
    except (KeyError, ValueError) as error:
        raise ModelUnreadable(f"{path.name} is a damaged OpenVINO IR: {error}", hint="export it again") from error


def check_version(path: Path, version: str) -> None:
    """Refuses IRs that OpenVINO no longer reads.

    Raises:
        ModelUnreadable: The version is below 10.
    """
    if version.isdigit() and int(version) < OLDEST_VERSION:
        raise ModelUnreadable(
            f"{path.name} is OpenVINO IR version {version}, from before 2020.4; {OLDEST_VERSION} and newer are read",
            hint="convert the original model again: hub convert MODEL --to openvino",
        )


def _parsed(path: Path) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
        return builder.close()
    except _Refused as error:
        raise ModelUnreadable(f"{path.name} is refused: {_ENTITIES}", hint="save it again with OpenVINO") from error
    except (expat.ExpatError, AssertionError) as error:
        message = f"{path.name} is truncated or damaged: {error}"
        raise ModelUnreadable(message, hint="copy or export it again") from error


def _graph(element: Element) -> IrGraph:
    nodes = [_node(layer) for layer in element.iterfind("layers/layer")]
    edges = (edge.attrib for edge in element.iterfind("edges/edge"))
    feeds = {(int(e["to-layer"]), int(e["to-port"])): int(e["from-layer"]) for e in edges}
    return IrGraph({node.key: node for node in nodes}, feeds)


def _node(layer: Element) -> IrLayer:
    data, notes = layer.find("data"), layer.iterfind("rt_info/attribute")
    return IrLayer(
        key=int(layer.attrib["id"]),
        name=layer.get("name", ""),
        type=layer.attrib["type"],
        opset=layer.get("version", ""),
        data=dict(data.attrib) if data is not None else {},
        inputs=tuple(_ports(layer.iterfind("input/port"))),
        outputs=tuple(_ports(layer.iterfind("output/port"))),
        bodies=tuple(_graph(child) for child in layer if child.tag in {"body", "then_body", "else_body"}),
        notes=tuple(note.get("name", "") for note in notes),
    )


def _ports(elements: Iterable[Element]) -> Iterator[IrPort]:
    for port in elements:
        dims = tuple(int(dim.text or -1) if (dim.text or "").strip() else -1 for dim in port.iterfind("dim"))
        names = tuple(name.replace("\\,", ",") for name in _COMMA.split(port.get("names", "")) if name)
        yield IrPort(int(port.get("id", "0")), port.get("precision", ""), dims, names)


def _flat(element: Element, prefix: str) -> Iterator[tuple[str, str]]:
    for child in element:
        name = f"{prefix}{child.get('name') or child.tag}"
        if "value" in child.attrib:
            yield name, child.attrib["value"]
        yield from _flat(child, f"{name}/")


def weights_path(path: Path) -> Path:
    """Where an IR's weights lie."""
    return path.with_suffix(".bin")


def weight_bytes(ir: Ir) -> int:
    """How long the weights must be at least: the end of the last stored tensor."""
    constants = (node for graph in graphs_of(ir.graph) for node in graph.nodes.values() if node.is_constant)
    return max((int(c.data.get("offset", 0)) + int(c.data.get("size", 0)) for c in constants), default=0)


def check_weights(ir: Ir, path: Path) -> Path | None:
    """Returns the `.bin` file; None where the model stores nothing and there is none.

    Raises:
        ExternalDataError: It is missing, or shorter than the stored tensors need.
    """
    weights, needed = weights_path(path), weight_bytes(ir)
    there = weights.stat().st_size if weights.is_file() else -1
    if there < 0 and not needed:
        return None
    if there < needed:
        state = "is missing" if there < 0 else f"is truncated: {there} bytes"
        message = f"{weights.name}, the weights of {path.name}, {state}; {needed} bytes are needed"
        raise ExternalDataError(message, hint=f"put the .bin file beside the .xml: {path.with_suffix('.bin')}")
    return weights
