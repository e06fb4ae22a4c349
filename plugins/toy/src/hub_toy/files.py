"""The two file formats.

`toy` is JSON text: named inputs and outputs, and layers in order with their weights inline. `toybin` is binary:
8 bytes of magic, the length of a JSON header (uint32, little endian), the header (the same text without weights), and
the weights as one .npz. Values between layers have names, so a model may have several inputs and outputs.
"""

import io
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from hub.spec import ModelUnreadable

TEXT_START = b'{"toy": 1'
MAGIC = b"TOYBIN1\n"
OPERATORS = ("affine", "add", "relu", "softmax")

Array = npt.NDArray[np.generic]


class ToyValue(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output; a string in `shape` is a symbolic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class ToyLayer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One operator. `affine` is x @ w + b with w [in, out] and b [out]; `add` takes two inputs."""

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    w: tuple[tuple[float, ...], ...] = ()
    b: tuple[float, ...] = ()


class ToyGraph(msgspec.Struct, frozen=True, kw_only=True):
    """A model without its arrays; `toy` is the version of the text."""

    toy: int
    inputs: tuple[ToyValue, ...]
    outputs: tuple[ToyValue, ...]
    layers: tuple[ToyLayer, ...]


class ToyModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model in memory.

    Attributes:
        graph: Inputs, outputs, layers.
        arrays: `<layer>.w` [in, out] and `<layer>.b` [out]; quantized layers have `<layer>.w_scale` [out] too, and
            statically quantized ones `<layer>.x_scale` []. An input that was frozen is `<input>.value`.
    """

    graph: ToyGraph
    arrays: dict[str, Array]


def read(path: Path) -> ToyModel:
    """Read either format.

    Raises:
        ModelUnreadable: It is damaged, or holds an operator that there is not.
    """
    content = path.read_bytes()
    try:
        model = _decode_binary(content) if content.startswith(MAGIC) else _decode_text(content)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
        raise ModelUnreadable(f"{path} is damaged: {error}", hint="export it again") from error
    unknown = sorted({layer.op for layer in model.graph.layers} - set(OPERATORS))
    if unknown:
        hint = f"a toy model is made of {', '.join(OPERATORS)}"
        raise ModelUnreadable(f"{path} holds the unknown operator {', '.join(unknown)}", hint=hint)
    return model


def write_binary(path: Path, model: ToyModel) -> None:
    """Write a `toybin` file."""
    layers = tuple(msgspec.structs.replace(layer, w=(), b=()) for layer in model.graph.layers)
    header = msgspec.json.encode(msgspec.structs.replace(model.graph, layers=layers))
    weights = io.BytesIO()
    np.savez(weights, allow_pickle=False, **model.arrays)
    path.write_bytes(MAGIC + len(header).to_bytes(4, "little") + header + weights.getvalue())


def _decode_text(content: bytes) -> ToyModel:
    graph = msgspec.json.decode(content, type=ToyGraph)
    affine = [layer for layer in graph.layers if layer.op == "affine"]
    arrays: dict[str, Array] = {f"{layer.name}.w": np.asarray(layer.w, np.float32) for layer in affine}
    arrays |= {f"{layer.name}.b": np.asarray(layer.b, np.float32) for layer in affine}
    return ToyModel(graph=graph, arrays=arrays)


def _decode_binary(content: bytes) -> ToyModel:
    start = len(MAGIC) + 4
    end = start + int.from_bytes(content[len(MAGIC) : start], "little")
    with np.load(io.BytesIO(content[end:]), allow_pickle=False) as arrays:
        return ToyModel(graph=msgspec.json.decode(content[start:end], type=ToyGraph), arrays=dict(arrays))
