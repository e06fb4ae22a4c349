"""Which of a TFLite file's tensors its signature calls what: OpenVINO's frontend knows the tensors' own names only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import Signature, TensorSpec, UnsupportedModel
from hub_openvino.convert.source_signature import SignaturePlaces

if TYPE_CHECKING:
    import openvino


def places_of(path: Path, model: openvino.Model, source: Signature) -> SignaturePlaces:
    """Find the source's inputs and outputs by the names in the file's signature, else by the tensors' names.

    Raises:
        UnsupportedModel: One is not there.
    """
    try:
        return SignaturePlaces.by_name(model, source)
    except UnsupportedModel:
        inputs, outputs = _tensor_names(path)
        known = Signature(
            inputs=tuple(_renamed(spec, inputs) for spec in source.inputs),
            outputs=tuple(_renamed(spec, outputs) for spec in source.outputs),
        )
        return SignaturePlaces.by_name(model, known)


def _renamed(spec: TensorSpec, names: Mapping[str, str]) -> TensorSpec:
    import msgspec

    return msgspec.structs.replace(spec, name=names.get(spec.name, spec.name))


def _tensor_names(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Signature name -> tensor name of inputs and outputs, as LiteRT reads them; empty where it is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        return {}, {}
    try:
        interpreter = Interpreter(model_path=str(path))
        keys = list(interpreter.get_signature_list())
        runner = interpreter.get_signature_runner(keys[0]) if keys else None
    except (ValueError, RuntimeError) as error:
        raise UnsupportedModel(f"LiteRT cannot open {path.name} for its signature: {error}") from error
    if runner is None:
        return {}, {}
    sides = (runner.get_input_details(), runner.get_output_details())
    # OpenVINO has the names without TensorFlow's number of the output.
    inputs, outputs = ({name: item["name"].removesuffix(":0") for name, item in side.items()} for side in sides)
    return inputs, outputs
