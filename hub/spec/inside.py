"""A model from inside: its layers, its constants, and a copy of it that is fed in the middle.

With these hub checks a result layer by layer. Each layer of the float model computes from what the result's own layer
was given, so that one layer's rounding is not taken for the next one's fault; and the constants are held against the
float ones, which needs no samples at all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import msgspec

from hub.spec.tensors import DType, QuantParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]
    Reals = npt.NDArray[np.float64]


class InnerTensor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tensor of a model's main graph, as its readers see it.

    Attributes:
        name: What `ShowsIntermediates` takes: the tensor that the layers behind read.
        stands_for: The name that the float model has for it: empty where the file only numbers it.
        rounds: The tensor that it is the rounded form of, where the file has both.
        dtype: Element type that is stored.
        quant: Scale and zero point, where it lies on a grid.
        low: Smallest stored number of that grid.
        high: Largest.
        constant: Whether it is a constant of the file.
    """

    name: str
    dtype: DType
    stands_for: str = ""
    rounds: str = ""
    quant: QuantParams | None = None
    low: int = 0
    high: int = 0
    constant: bool = False


class InnerLayer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator of a model's main graph; what only rounds or reads rounded numbers is none.

    Attributes:
        name: As `hub inspect --layers` shows it.
        operator: As the file calls it.
        inputs: Tensors by `InnerTensor.name`, in the operator's own order; empty where an optional one is left out.
        outputs: Likewise.
        epsilon: What a norm adds before it divides, where it says so as an attribute.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    epsilon: float | None = None


class Inside(msgspec.Struct, frozen=True, kw_only=True):
    """A model's main graph.

    Attributes:
        layers: In execution order.
        tensors: By name.
        inputs: The signature's names of its inputs -> tensors.
    """

    layers: tuple[InnerLayer, ...]
    tensors: dict[str, InnerTensor]
    inputs: dict[str, str]


class StoredConstant(NamedTuple):
    """A constant of a file.

    Attributes:
        values: The numbers that it stands for.
        step: Distance of two neighbouring numbers of its grid, for each value or one that broadcasts; 0 where it is
            not on a grid.
    """

    values: "Reals"
    step: "Reals"


class Read(NamedTuple):
    """One place where a layer reads a tensor.

    Attributes:
        result: The layer's first output.
        slot: Which of its inputs, from 0.
    """

    result: str
    slot: int

    @property
    def fed(self) -> str:
        """What the input of a cut model is called that is read there."""
        return f"fed {self.slot}: {self.result}"


@runtime_checkable
class OpensInside(Protocol):
    """A `Format` whose models can be checked layer by layer. All of it runs in a worker."""

    def inside(self, path: Path) -> Inside:
        """Read the main graph."""

    def constants(self, path: Path, names: Sequence[str]) -> Mapping[str, StoredConstant]:
        """Read constants, by `InnerTensor.name`."""

    def cut(
        self,
        path: Path,
        into: Path,
        results: Sequence[str],
        reads: Sequence[Read],
        constants: Mapping[Read, "Array"],
    ) -> Path:
        """Write a float model whose layers are fed apart from each other.

        Args:
            path: The float model.
            into: An empty folder.
            results: Results of layers, by `InnerTensor.name`: the outputs, in this order, under these names. They
                hang on `reads` and constants alone.
            reads: Where a layer is to read a new input of the model, called `Read.fed`, instead of what it reads now.
            constants: Where a layer is to read a constant of its own, with these values in the old one's shape and
                type; what reads one array may share one constant.

        Returns:
            The file, in the same format; it takes what is fed and nothing else.
        """


@runtime_checkable
class CutsOut(Protocol):
    """A `Format` that can write a part of a model, also of a quantized one, for `hub reduce`.

    Attributes:
        script: Source of a Python function `run(path, feeds)`: it runs a file on arrays by name, in the order of its
            inputs, and gives its first output, with the vendor's library and numpy alone: for a report to the vendor.
    """

    script: str

    def part(self, path: Path, into: Path, inputs: "Mapping[str, Array]", output: str) -> Path:
        """Write what computes a tensor from others, as the file has it. Runs in a worker.

        Args:
            path: The model.
            into: An empty folder.
            inputs: Tensors by `InnerTensor.name`, which are the part's inputs in this order and under these names, each
                with an array that is to be fed, in the type and sizes that it is stored in.
            output: Likewise the tensor. It hangs on `inputs` and constants alone.

        Returns:
            The file, in the same format.
        """
