"""What the ONNX standard says of a node: its version, its attributes, the opsets of its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx

from hub_onnxgraph.errors import Refused
from hub_onnxgraph.table import Table

_AS_IS = {
    onnx.AttributeProto.FLOAT: "f",
    onnx.AttributeProto.INT: "i",
    onnx.AttributeProto.GRAPH: "g",
}


def domain_of(domain: str) -> str:
    """Return a domain's canonical spelling: the standard's own is empty."""
    return "" if domain == "ai.onnx" else domain


def opsets_of(model: onnx.ModelProto | onnx.FunctionProto) -> dict[str, int]:
    """Return the opset version of each domain the model, or function, imports."""
    return {domain_of(entry.domain): entry.version for entry in model.opset_import}


def since_version(node: onnx.NodeProto, opsets: dict[str, int]) -> int:
    """Return the since-version of a node's operator; for other domains than ONNX's, the domain's version.

    0 when the standard has no such operator in the model's opset.
    """
    domain = domain_of(node.domain)
    opset = opsets.get(domain, 0)
    if not onnx.defs.has(node.op_type, opset, domain):
        return opset if domain else 0
    return int(onnx.defs.get_schema(node.op_type, opset, domain).since_version)


def attributes_of(node: onnx.NodeProto, tensor_of: Callable[[onnx.TensorProto], Any]) -> dict[str, Any]:
    """Return a node's attributes as Python numbers, strings and lists, tensors as `tensor_of` has them, GraphProtos.

    Raises:
        Refused: an attribute has a type that no implemented operator uses.
    """
    return {attribute.name: _attribute(attribute, tensor_of) for attribute in node.attribute}


def _attribute(attribute: onnx.AttributeProto, tensor_of: Callable[[onnx.TensorProto], Any]) -> Any:
    kinds = onnx.AttributeProto
    if attribute.ref_attr_name:
        raise Refused(f"attribute {attribute.name} refers to a function's attribute")
    if attribute.type in _AS_IS:
        return getattr(attribute, _AS_IS[attribute.type])
    readers: dict[int, Callable[[], Any]] = {
        kinds.STRING: attribute.s.decode,
        kinds.TENSOR: lambda: tensor_of(attribute.t),
        kinds.INTS: lambda: list(attribute.ints),
        kinds.FLOATS: lambda: list(attribute.floats),
        kinds.STRINGS: lambda: [text.decode() for text in attribute.strings],
    }
    if attribute.type not in readers:
        raise Refused(f"attribute {attribute.name} has a type that is not implemented")
    return readers[attribute.type]()


def definition(
    node: onnx.NodeProto, opsets: dict[str, int], types: list[onnx.TypeProto] | None = None
) -> onnx.FunctionProto | None:
    """Return the standard's definition of an operator by others, or None when it has none for this node.

    Args:
        node: The node.
        opsets: The opset of each domain.
        types: The types of its inputs. Without them only definitions that do not depend on types are returned.
    """
    domain = domain_of(node.domain)
    opset = opsets.get(domain, 0)
    if not onnx.defs.has(node.op_type, opset, domain):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, opset, domain)  # the stub leaves out what tells of definitions
    content = b""
    if schema.has_function:
        content = schema.get_function_with_opset_version(max(schema.function_opset_versions))
    elif schema.has_context_dependent_function and types is not None:
        newest = max(schema.context_dependent_function_opset_versions)
        content = schema.get_context_dependent_function_with_opset_version(
            newest, node.SerializeToString(), [kind.SerializeToString() for kind in types]
        )
    return onnx.FunctionProto.FromString(content) if content else None


def with_attributes(body: onnx.FunctionProto, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield a definition's nodes with the node's attributes, or their defaults, in place of references to them."""
    given = {attribute.name: attribute for attribute in (*body.attribute_proto, *node.attribute)}
    schema = onnx.defs.get_schema(node.op_type, domain=domain_of(node.domain))
    values = {name: attribute.default_value for name, attribute in schema.attributes.items()}
    schema_defaults = {
        name: value for name, value in values.items() if value.type and name in {*body.attribute, *values}
    }
    for step in body.node:
        bound = onnx.NodeProto()
        bound.CopyFrom(step)
        _bind(bound, {**schema_defaults, **given})
        yield bound


def _bind(node: onnx.NodeProto, given: dict[str, onnx.AttributeProto]) -> None:
    kept = []
    for attribute in node.attribute:
        if attribute.ref_attr_name in given:
            value = onnx.AttributeProto()
            value.CopyFrom(given[attribute.ref_attr_name])
            value.name = attribute.name
            kept.append(value)
        elif not attribute.ref_attr_name:
            kept.append(attribute)
            for inner in nodes_of(attribute.g):
                _bind(inner, given)
    copies = [onnx.AttributeProto.FromString(value.SerializeToString()) for value in kept]
    del node.attribute[:]
    node.attribute.extend(copies)


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its local functions inlined; the model itself when it has none."""
    if not model.functions:
        return model
    from onnx import inliner

    return inliner.inline_local_functions(model)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a model with its local functions inlined."""
    yield from nodes_of(without_functions(model).graph)


def unsupported_operators(model: onnx.ModelProto, table: Table) -> dict[str, str]:
    """Say which operators of a model an importer's table does not know. Cheap and total: nothing is computed.

    Returns:
        Operator type, prefixed by its domain when that is not ONNX's, to the reason. Empty when all are known.
    """
    opsets = opsets_of(model)
    found: dict[str, str] = {}
    for node in all_nodes(model):
        reason = reason_against(node, opsets, table)
        if reason is not None:
            found.setdefault(f"{node.domain}.{node.op_type}" if node.domain else node.op_type, reason)
    return found


def reason_against(node: onnx.NodeProto, opsets: dict[str, int], table: Table) -> str | None:
    """Say why the operator table has no row that fits a node, or None when one fits."""
    row = table.find(node.op_type, since_version(node, opsets), domain_of(node.domain))
    if isinstance(row, str):
        return _reason_against_definition(node, opsets, row, table)
    return row.mismatch([bool(name) for name in node.input], [attribute.name for attribute in node.attribute])


def _reason_against_definition(node: onnx.NodeProto, opsets: dict[str, int], reason: str, table: Table) -> str | None:
    """The reason, unless the standard defines the operator by others that are all known."""
    domain, opset = domain_of(node.domain), opsets.get(domain_of(node.domain), 0)
    if not onnx.defs.has(node.op_type, opset, domain):
        return reason
    body = definition(node, opsets)
    if body is None:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, domain)  # as above
        return None if schema.has_context_dependent_function else reason
    reasons = (reason_against(step, opsets_of(body), table) for step in with_attributes(body, node))
    return next((f"its definition needs more: {inner}" for inner in reasons if inner), None)
