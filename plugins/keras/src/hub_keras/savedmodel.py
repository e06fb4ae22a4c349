"""SavedModel folders: read the graph before loading it, and call it through its serving signature."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hub.spec import ModelRefused, ModelUnreadable, Remark, Signature, TensorSpec, UnsupportedModel
from hub_keras.archive import SAVED_MODEL_FILE
from hub_keras.frozen import load_frozen
from hub_keras.loaded import LoadedModel, spec_of, unique

SERVING = "serving_default"

# Operators that call Python, or read and write files by names that the graph gives.
_CODE_OPERATORS = frozenset(
    {"PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "SaveV2", "MergeV2Checkpoints", "PrintV2"}
)
# Bookkeeping of every SavedModel's own saver; its functions are not the model's.
_SAVER_PREFIXES = ("__inference__traced_save", "__inference__traced_restore")
_PLUMBING = frozenset({"Const", "Placeholder", "Identity", "NoOp", "ReadVariableOp", "VarHandleOp", "IdentityN"})


def read_operators(folder: Path) -> dict[str, int]:
    """Count the operators of a SavedModel's functions from its protobuf alone; the saver's functions are left out.

    Raises:
        ModelUnreadable: `saved_model.pb` is truncated or something else.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((folder / SAVED_MODEL_FILE).read_bytes())
    except (DecodeError, OSError) as error:
        raise _unreadable(folder, f"is no whole {SAVED_MODEL_FILE}: {error}") from error
    if not proto.meta_graphs:
        raise _unreadable(folder, "holds no graph")
    return dict(collections.Counter(_operators(proto.meta_graphs[0].graph_def.library.function)))


def _operators(functions: Any) -> Iterator[str]:
    for function in functions:
        if not function.signature.name.startswith(_SAVER_PREFIXES):
            yield from (node.op for node in function.node_def)


def _unreadable(folder: Path, what: str) -> ModelUnreadable:
    return ModelUnreadable(f"{folder} {what}", hint="export it again: model.export('FOLDER')")


def refuse_code(folder: Path, operators: dict[str, int], *, allow_pickle: bool) -> None:
    """Stop at graphs that call Python or touch files.

    Raises:
        ModelRefused: There is such an operator, and `allow_pickle` is off.
    """
    found = sorted(_CODE_OPERATORS & operators.keys())
    if found and not allow_pickle:
        raise ModelRefused(
            f"the graph in {folder} calls {', '.join(found)}: running it would run code or touch files that it names",
            hint="export the model without it, or, for a model you trust, add --allow-pickle",
        )


def load_saved_model(folder: Path, *, allow_pickle: bool) -> LoadedModel:
    """Load a SavedModel through its serving signature. See `hub_keras.load.load_model`."""
    operators = read_operators(folder)
    refuse_code(folder, operators, allow_pickle=allow_pickle)
    try:
        loaded = _of_objects(folder, operators)
    except _NotLoaded as failed:
        loaded = _of_graph(folder, operators, failed)
    return loaded


class _NotLoaded(Exception):
    """TensorFlow 2 does not load a folder; the message says why."""


def _of_objects(folder: Path, operators: dict[str, int]) -> LoadedModel:
    model = _load(folder)
    signatures = dict(getattr(model, "signatures", {}))
    name = _chosen(list(signatures), folder)
    function = signatures[name]
    inputs, outputs = _specs(function.structured_input_signature[1]), _specs(function.structured_outputs)
    results = [spec.name for spec in outputs]
    weights = list({id(variable): variable for variable in function.graph.variables}.values())
    return LoadedModel(
        call=lambda tensors: _call(function, [spec.name for spec in inputs], results, tensors),
        signature=Signature(inputs=inputs, outputs=_apart(outputs, [spec.name for spec in inputs])),
        operators={key: count for key, count in operators.items() if key not in _PLUMBING},
        model=model,
        parameters=sum(math.prod(variable.shape) for variable in weights),
        weight_dtypes=tuple(variable.dtype.name for variable in weights),
        versions={"file": "savedmodel", "signature": name, "tensorflow": str(model.tensorflow_version)},
    )


def _of_graph(folder: Path, operators: dict[str, int], failed: _NotLoaded) -> LoadedModel:
    """Load the graph alone, by the loader of TensorFlow 1."""
    import tensorflow as tf

    names: list[str] = []

    def choose(found: Sequence[str]) -> str:
        names.append(_chosen(found, folder))
        return names[0]

    try:
        frozen = load_frozen(folder, choose)
    except (tf.errors.OpError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(folder, f"{failed}, nor by its loader of version 1: {error}") from error
    inputs, outputs = _specs(frozen.inputs), _specs(frozen.outputs)
    said = f"{failed}; its graph was loaded alone, by the loader of TensorFlow 1"
    return LoadedModel(
        call=frozen.call,
        signature=Signature(inputs=inputs, outputs=_apart(outputs, [spec.name for spec in inputs])),
        operators={key: count for key, count in operators.items() if key not in _PLUMBING},
        model=frozen.graph,
        parameters=sum(math.prod(shape) for shape, _ in frozen.variables),
        weight_dtypes=tuple(dtype for _, dtype in frozen.variables),
        findings=(Remark("finding", "graph-alone", said),),
        versions={"file": "savedmodel", "signature": names[0], "tensorflow": frozen.version},
    )


def _load(folder: Path) -> Any:
    import tensorflow as tf

    try:
        return tf.saved_model.load(str(folder))
    except tf.errors.NotFoundError as error:
        raise UnsupportedModel(
            f"TensorFlow cannot load {folder}: {error.message}", hint="custom operators are not supported"
        ) from error
    except (tf.errors.OpError, OSError, ValueError, KeyError, AttributeError) as error:
        raise _NotLoaded(f"cannot be loaded by TensorFlow {tf.__version__}: {error}") from error


def _chosen(names: Sequence[str], folder: Path) -> str:
    if SERVING in names:
        return SERVING
    if len(names) == 1:
        return names[0]
    raise UnsupportedModel(
        f"{folder} has no signature {SERVING} (signatures: {', '.join(sorted(names)) or 'none'})",
        hint="save it with signatures={'serving_default': function}",
    )


def _specs(tensors: dict[str, Any]) -> tuple[TensorSpec, ...]:
    """SavedModel keeps signatures by name, without an order: hub takes them by name."""
    return tuple(_spec(name, tensors[name]) for name in sorted(tensors))


def _spec(name: str, tensor: Any) -> TensorSpec:
    if tensor.shape.rank is None:
        raise UnsupportedModel(f"{name} has no rank", hint="export with an input_signature that says it")
    return spec_of(name, tensor.dtype.name, tensor.shape.as_list())


def _apart(outputs: Sequence[TensorSpec], taken: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Outputs whose names differ from those of the inputs: no other format has one name on both sides."""
    names = unique([*taken, *(spec.name for spec in outputs)])[len(taken) :]
    return tuple(msgspec.structs.replace(spec, name=name) for spec, name in zip(outputs, names, strict=True))


def _call(function: Any, inputs: Sequence[str], outputs: Sequence[str], tensors: Sequence[Any]) -> list[Any]:
    made = function(**dict(zip(inputs, tensors, strict=True)))
    return [made[name] for name in outputs]
