"""The reader of OpenVINO IR: the XML document by hub's own parser, the signature by OpenVINO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import DType, ModelSummary, ModelUnreadable, Remark, Signature, State
from hub_openvino.identify import FORMAT
from hub_openvino.ir import Ir, check_weights, graphs_of, read_ir
from hub_openvino.numerics import constants_of, elements, find_numerics, is_public, layers_of, operator_key

if TYPE_CHECKING:
    import openvino

_STATE = frozenset({"ReadValue", "Assign"})
_KEPT_INFO = {
    "Runtime_version": "openvino",
    "conversion_parameters/input_model": "converted from",
    "nncf/version": "nncf",
}
_NAMED = 5


def describe(path: Path) -> ModelSummary:
    """Reads a file.

    Raises:
        ModelUnreadable: It is no IR, damaged, or of a version that OpenVINO does not read.
        ExternalDataError: The `.bin` file is missing or truncated.
    """
    from hub_openvino.border import signature_of

    ir = read_ir(path)
    weights = check_weights(ir, path)
    files = [path, *([weights] if weights else [])]
    nodes = [node for graph in graphs_of(ir.graph) for node in graph.computing]
    signature = signature_of(read_model(path))
    sets = Counter(node.opset for graph in graphs_of(ir.graph) for node in graph.computing)
    newest = max((name for name in sets if name.startswith("opset")), key=lambda name: int(name[5:] or 0), default="")
    versions = {"ir": str(ir.version), **({"opset": newest.removeprefix("opset")} if newest else {})}
    return ModelSummary(
        state=State(format=FORMAT, numerics=find_numerics(ir).numerics),
        signature=signature,
        operators=dict(sorted(Counter(map(operator_key, nodes)).items())),
        custom_operators=tuple(sorted({operator_key(node) for node in nodes if not is_public(node)})),
        parameters=sum(map(elements, constants_of(ir))),
        size_bytes=sum(file.stat().st_size for file in files),
        files=tuple(str(file.resolve()) for file in files),
        versions=versions | {word: ir.info[key] for key, word in _KEPT_INFO.items() if key in ir.info},
        findings=tuple(_findings(ir, signature)),
        layers=layers_of(ir),
    )


def read_model(path: Path) -> openvino.Model:
    """Opens an IR in OpenVINO.

    Raises:
        ModelUnreadable: OpenVINO refuses it.
        ExternalDataError: The `.bin` file is missing or truncated; OpenVINO maps it, and may read past its end.
    """
    import openvino

    check_weights(read_ir(path), path)
    try:
        return openvino.Core().read_model(str(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        hint = "it may be from a newer OpenVINO, or need an extension: `hub inspect` lists its operators"
        raise ModelUnreadable(
            f"OpenVINO {openvino.__version__} cannot read {path.name}: {reason}", hint=hint
        ) from error


def _findings(ir: Ir, signature: Signature) -> Iterator[Remark]:
    """What is worth knowing, in order of importance."""
    strings = [spec.name for spec in signature.inputs if spec.dtype in {DType.STRING, DType.UNKNOWN}]
    if strings:
        message = f"inputs of a type that hub cannot feed: {', '.join(strings)}"
        yield Remark("blocker", "input-type", message)
    state = {node.data.get("variable_id", node.name) for node in ir.graph.computing if node.type in _STATE}
    if state:
        names = ", ".join(sorted(state)[:_NAMED])
        hint = "hub resets it before every run; a deployment must do so at the start of every sequence"
        yield Remark("finding", "hidden-state", f"{len(state)} variables hold state between runs: {names}", hint)
    left = find_numerics(ir).left_float
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        yield Remark("finding", "left-in-float", f"multiplied in float: {', '.join(left[:_NAMED])}{more}")
