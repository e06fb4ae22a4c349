# ruff: noqa: N802, N815 - the schema's own names
"""The tables of the TFLite schema as the reader gives them: what is there, and what may be absent.

The objects are those of the runtime's generated module (`schema_py_generated`), which carries no types; these classes
are their types and are never made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Integers = Sequence[int] | npt.NDArray[np.integer[Any]]
    Reals = Sequence[float] | npt.NDArray[np.floating[Any]]


class ModelT:
    """A file. The reader sees to it that there is a subgraph."""

    version: int
    description: bytes | None
    operatorCodes: list[OperatorCodeT]
    subgraphs: list[SubGraphT]
    buffers: list[BufferT]
    metadata: list[MetadataT] | None
    metadataBuffer: Integers | None
    signatureDefs: list[SignatureDefT] | None

    def Pack(self, builder: Any) -> int:
        """Writes the tables into a `flatbuffers.Builder`; returns where the root is."""
        raise NotImplementedError


class SubGraphT:
    """A graph. The reader sees to it that tensors and operators are lists and every index is one of theirs."""

    name: bytes | None
    tensors: list[TensorT]
    operators: list[OperatorT]
    inputs: Integers | None
    outputs: Integers | None


class TensorT:
    """A value of a graph; `shapeSignature` has -1 where a size is open, `buffer` holds a constant's content."""

    name: bytes | None
    type: int
    shape: Integers | None
    shapeSignature: Integers | None
    hasRank: bool
    buffer: int
    isVariable: bool
    quantization: QuantizationParametersT | None
    sparsity: SparsityParametersT | None


class QuantizationParametersT:
    """Scales and zero points, or `details` of another kind (block-wise, custom)."""

    scale: Reals | None
    zeroPoint: Integers | None
    quantizedDimension: int
    details: BlockwiseQuantizationT | None


class BlockwiseQuantizationT:
    """Scales and zero points of blocks, each in a tensor of its own; a custom quantization lacks `blockSize`."""

    scales: int
    zeroPoints: int
    blockSize: int


class SparsityParametersT:
    """How a sparse constant is stored."""

    traversalOrder: Integers | None
    blockMap: Integers | None
    dimMetadata: list[DimensionMetadataT]


class DimensionMetadataT:
    """One level of a sparse constant's tree."""

    format: int
    denseSize: int
    arraySegments: IndexVectorT
    arrayIndices: IndexVectorT


class IndexVectorT:
    """`Int32Vector`, `Uint16Vector` or `Uint8Vector` of the schema."""

    values: Integers | None


class OperatorT:
    """An operator of a graph; options are the table of its kind, in one of two unions."""

    opcodeIndex: int
    inputs: Integers | None
    outputs: Integers | None
    intermediates: Integers | None
    builtinOptionsType: int
    builtinOptions: Any
    builtinOptions2Type: int
    builtinOptions2: Any
    customOptions: Bytes | None


class OperatorCodeT:
    """A kind of operator with its version; numbers below 127 stand in `deprecatedBuiltinCode` in old files."""

    builtinCode: int
    deprecatedBuiltinCode: int
    customCode: bytes | None
    version: int


class BufferT:
    """A constant's content."""

    data: Bytes | None
    offset: int
    size: int


class MetadataT:
    """Something else that is stored in a file."""

    name: bytes | None
    buffer: int


class SignatureDefT:
    """Names of a graph's inputs and outputs."""

    signatureKey: bytes | None
    subgraphIndex: int
    inputs: list[TensorMapT] | None
    outputs: list[TensorMapT] | None


class TensorMapT:
    """The name of one input or output."""

    name: bytes
    tensorIndex: int
