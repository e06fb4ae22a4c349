"""Reads `.ort` files, ONNX Runtime's own flatbuffer form of a model, as the ONNX graph that they hold.

The tables are those of onnxruntime's `core/flatbuffers/schema/ort.fbs`, read with the classes that ONNX Runtime ships.
Nothing is run. The bytes of weights are not taken into memory, but it is checked that the file holds them.
"""

from __future__ import annotations

import graphlib
import importlib
import importlib.util
import mmap
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.spec import ModelNotFound, ModelUnreadable, StepError
from hub_onnxgraph.signature import dtype_name

if TYPE_CHECKING:
    import onnx

IDENTIFIER = b"ORTM"  # `file_identifier` of ort.fbs, at bytes 4 to 8 of every flatbuffer
_TABLES = "ort_flatbuffers_py"
_DAMAGED = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)
_TENSOR, _SEQUENCE, _MAP = 1, 2, 3  # TypeInfoValue of ort.fbs
_VALUE, _PARAM = 1, 2  # DimensionValueType of ort.fbs


class _Damaged(ValueError):
    """A table that cannot be."""


def is_ort(header: bytes) -> bool:
    """Whether a file's first bytes are those of an `.ort` file."""
    return header[4:8] == IDENTIFIER


def is_ort_file(path: Path) -> bool:
    """Whether a file is an `.ort` file, by its first bytes.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return is_ort(file.read(8))


def _text(value: bytes | None) -> str:
    return (value or b"").decode()


class _Reader:
    """Turns the tables of one file into ONNX protos. `size` bounds every length: a damaged one is often enormous."""

    def __init__(self, content: mmap.mmap) -> None:
        self.size = len(content)
        self.content = content

    def items(self, table: Any, name: str) -> Iterator[Any]:
        count = getattr(table, f"{name}Length")()
        if not 0 <= count <= self.size:
            raise _Damaged(f"a list of {count} {name.lower()} in {self.size} bytes")
        get = getattr(table, name)
        return (get(index) for index in range(count))

    def texts(self, table: Any, name: str) -> list[str]:
        return [_text(item) for item in self.items(table, name)]

    def model(self) -> onnx.ModelProto:
        import onnx

        table = _root(self.content).Model()
        proto = onnx.ModelProto(
            ir_version=table.IrVersion(),
            producer_name=_text(table.ProducerName()),
            producer_version=_text(table.ProducerVersion()),
        )
        for entry in self.items(table, "OpsetImport"):
            proto.opset_import.add(domain=_text(entry.Domain()), version=entry.Version())
        self.graph(table.Graph(), proto.graph)
        return proto

    def graph(self, table: Any, proto: onnx.GraphProto) -> None:
        values = {_text(value.Name()): value for value in self.items(table, "NodeArgs")}
        for tensor in self.items(table, "Initializers"):
            self.tensor(tensor, proto.initializer.add())
        for tensor in self.items(table, "SparseInitializers"):
            self.tensor(tensor.Values(), proto.sparse_initializer.add().values)
        for name, value in values.items():
            self.value(name, value, proto.value_info.add())
        for names, values_of in (
            (self.texts(table, "Inputs"), proto.input),
            (self.texts(table, "Outputs"), proto.output),
        ):
            for name in names:
                self.value(name, values[name], values_of.add())
        tables = sorted(self.items(table, "Nodes"), key=lambda node: int(node.Index()))
        proto.node.extend(_in_order([self.node(node) for node in tables]))

    def node(self, table: Any) -> tuple[onnx.NodeProto, list[str]]:
        """Returns a node, and the names of all that it needs, inside its subgraphs too."""
        import onnx

        proto = onnx.NodeProto()
        proto.op_type, proto.domain = _text(table.OpType()), _text(table.Domain())
        proto.name = _text(table.Name()) or f"{proto.op_type}_{table.Index()}"
        proto.input.extend(self.texts(table, "Inputs"))
        proto.output.extend(self.texts(table, "Outputs"))
        for attribute in self.items(table, "Attributes"):
            self.attribute(attribute, proto.attribute.add())
        return proto, [*proto.input, *self.texts(table, "ImplicitInputs")]

    def attribute(self, table: Any, proto: onnx.AttributeProto) -> None:
        proto.name, proto.type = _text(table.Name()), table.Type()
        proto.i, proto.f, proto.s = table.I(), table.F(), table.S() or b""
        proto.ints.extend(self.items(table, "Ints"))
        proto.floats.extend(self.items(table, "Floats"))
        if table.T():
            self.tensor(table.T(), proto.t)
        if table.G():
            self.graph(table.G(), proto.g)

    def tensor(self, table: Any, proto: onnx.TensorProto) -> None:
        proto.name, proto.data_type = _text(table.Name()), table.DataType()
        dtype_name(proto.data_type)  # an error for a type that does not exist
        proto.dims.extend(self.items(table, "Dims"))
        length = table.RawDataLength()
        if length and not 0 < length <= self.size:
            raise _Damaged(f"{length} bytes of data for {proto.name!r} in {self.size} bytes")
        if length:
            table.RawData(length - 1)  # beyond the file's end, where it is truncated

    def value(self, name: str, table: Any, proto: onnx.ValueInfoProto) -> None:
        proto.name = name
        kind = table.Type()
        if kind is None or kind.ValueType() != _TENSOR:
            if kind is not None and kind.ValueType() in (_SEQUENCE, _MAP):
                getattr(proto.type, "sequence_type" if kind.ValueType() == _SEQUENCE else "map_type").SetInParent()
            return
        tensor = _table("TensorTypeAndShape")()
        tensor.Init(kind.Value().Bytes, kind.Value().Pos)
        proto.type.tensor_type.elem_type = tensor.ElemType()
        dtype_name(tensor.ElemType())
        if tensor.Shape() is not None:
            proto.type.tensor_type.shape.SetInParent()
            for dim in self.items(tensor.Shape(), "Dim"):
                _dim(dim.Value(), proto.type.tensor_type.shape.dim.add())


def _dim(table: Any, proto: onnx.TensorShapeProto.Dimension) -> None:
    if table is not None and table.DimType() == _VALUE:
        proto.dim_value = table.DimValue()
    elif table is not None and table.DimType() == _PARAM:
        proto.dim_param = _text(table.DimParam())


def _in_order(nodes: list[tuple[onnx.NodeProto, list[str]]]) -> list[onnx.NodeProto]:
    """Sorts nodes, each given with all the names that it needs: their indexes are those before optimization.

    Raises:
        graphlib.CycleError: They need one another in a circle; it is a ValueError.
    """
    makers = {name: index for index, (node, _) in enumerate(nodes) for name in node.output if name}
    needs = {index: [makers[name] for name in names if name in makers] for index, (_, names) in enumerate(nodes)}
    return [nodes[index][0] for index in graphlib.TopologicalSorter(needs).static_order()]


def _table(name: str) -> Any:
    """Returns the class of one table of the schema, as ONNX Runtime ships it."""
    import onnxruntime

    if _TABLES not in sys.modules:
        # Without `onnxruntime.tools` around it, which imports all of torch.
        folder = Path(onnxruntime.__file__).parent / "tools" / "ort_format_model" / _TABLES
        spec = importlib.util.spec_from_file_location(
            _TABLES, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None:
            raise StepError(
                f"ONNX Runtime {onnxruntime.__version__} has no {folder}", hint="Install onnxruntime again."
            )
        module = importlib.util.module_from_spec(spec)
        sys.modules[_TABLES] = module
        spec.loader.exec_module(module)
    return getattr(importlib.import_module(f"{_TABLES}.fbs.{name}"), name)


def _root(content: mmap.mmap) -> Any:
    return _table("InferenceSession").GetRootAs(content, 0)


def load_ort(path: Path) -> onnx.ModelProto:
    """Returns the graph of an `.ort` file as an onnx ModelProto whose stored tensors have types and shapes, no bytes.

    A node without a name is called `<operator>_<index>`, as by ONNX Runtime's profiler.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: It is no `.ort` file, or a damaged one.
    """
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}", hint="Check the path; an .ort model is one file.")
    hint = "Copy it again and compare its size, or make it again: hub convert MODEL --to onnxruntime -o MODEL.ort"
    if not is_ort_file(path):
        raise ModelUnreadable(f"{path.name} is no .ort model: bytes 4 to 8 are not 'ORTM'", hint=hint)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            model = _Reader(content).model()
        except _DAMAGED as error:
            reason = str(error) or type(error).__name__
            raise ModelUnreadable(f"{path.name} is a damaged .ort model: {reason}", hint=hint) from error
    if not model.graph.node or not model.graph.output:
        raise ModelUnreadable(f"{path.name} is a damaged .ort model: its graph is empty", hint=hint)
    return model


def ort_version(path: Path) -> str:
    """Returns the version of the `.ort` format that a file was written in; raises as `load_ort`."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _text(_root(content).OrtVersion())
