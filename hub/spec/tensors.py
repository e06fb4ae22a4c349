"""What goes into a model and comes out: dimensions, element types, layouts, signatures."""

from enum import StrEnum
from typing import Self

import msgspec


class DType(StrEnum):
    """Element types, by numpy's name where numpy has one."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8E4M3FN = "float8e4m3fn"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    INT4 = "int4"
    UINT64 = "uint64"
    UINT32 = "uint32"
    UINT16 = "uint16"
    UINT8 = "uint8"
    BOOL = "bool"
    STRING = "string"
    COMPLEX64 = "complex64"
    UNKNOWN = "unknown"

    @property
    def is_float(self) -> bool:
        """Whether this is a real floating-point type."""
        return self in {DType.FLOAT64, DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16}


class Dim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One dimension: a fixed size, or a named symbol with bounds. Never unknown without a name.

    Attributes:
        size: The fixed size; None when the dimension is symbolic.
        symbol: The symbol's name; None when the dimension is fixed.
        low: Smallest size that a symbolic dimension takes.
        high: Largest size that a symbolic dimension takes; None when unbounded.
    """

    size: int | None = None
    symbol: str | None = None
    low: int = 1
    high: int | None = None

    def __post_init__(self) -> None:
        if (self.size is None) == (self.symbol is None):
            raise ValueError(f"a Dim has a size or a symbol, not both and not neither: {self.size}, {self.symbol}")

    def __str__(self) -> str:
        return str(self.symbol if self.size is None else self.size)

    @classmethod
    def of(cls, value: int | str) -> Self:
        """Make a fixed dimension of an integer, a symbolic one of a string."""
        return cls(size=value) if isinstance(value, int) else cls(symbol=value)


class DimRange(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes that a dimension is to take, with the one that a result is tuned for."""

    low: int
    best: int
    high: int

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.best <= self.high:
            raise ValueError(f"a DimRange goes up from 1: {self.low}, {self.best}, {self.high}")

    def __str__(self) -> str:
        """As `--shape` takes it: `1..8`, or `1..4..8` where the best size is not the largest."""
        if self.low == self.high:
            return str(self.low)
        sizes = (self.low, self.high) if self.best == self.high else (self.low, self.best, self.high)
        return "..".join(map(str, sizes))


class QuantParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Affine quantization, real = scale * (quantized - zero_point); one entry per tensor, or per channel of `axis`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input or output.

    Attributes:
        name: As the runtime takes it.
        dtype: Element type.
        shape: Dimensions, batch first where there is one.
        layout: A word such as NCHW or NHWC where it is known, else empty.
        quant: Scale and zero point of integer inputs and outputs.
        value_range: Smallest and largest sensible value where the reader can tell (rows of an embedding, 0..255).
    """

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    layout: str = ""
    quant: QuantParams | None = None
    value_range: tuple[float, float] | None = None

    @property
    def is_static(self) -> bool:
        """Whether every dimension has a fixed size."""
        return all(dim.size is not None for dim in self.shape)

    @property
    def fixed_shape(self) -> tuple[int, ...]:
        """The shape as integers.

        Raises:
            ValueError: A dimension is symbolic.
        """
        if not self.is_static:
            raise ValueError(f"{self.name} has symbolic dimensions: {self}")
        return tuple(dim.size for dim in self.shape if dim.size is not None)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype.value}[{'x'.join(map(str, self.shape))}]"


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """Ordered inputs and outputs."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def is_static(self) -> bool:
        """Whether every input has a fixed shape."""
        return all(spec.is_static for spec in self.inputs)
