"""A model as files: where it is, what state it is in, what goes in and out, and what it hashes to."""

from pathlib import Path

import msgspec

from hub.spec.numerics import Numerics, State
from hub.spec.remarks import Remark
from hub.spec.tensors import DType, Signature


class ModelArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """A model on disk.

    Attributes:
        path: File, or folder for a directory format.
        state: Format, numerics and form.
        signature: Inputs and outputs in order.
        sha256: Over every file of a directory format and every external data file.
        size_bytes: Sum over the same files.
    """

    path: str
    state: State
    signature: Signature
    sha256: str
    size_bytes: int


class Layer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One operator as an independent reader of the file sees it."""

    name: str
    operator: str
    precision: str


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a format's reader says of a model.

    Attributes:
        state: Format, numerics found in the file, form.
        signature: Inputs and outputs in order.
        operators: Operator -> count; a non-standard domain is written `domain::Operator`.
        custom_operators: Operators that the plain runtime does not have (Flex, custom domains).
        parameters: Number of weight elements; None where it cannot be told.
        size_bytes: Of all files.
        files: Every file that belongs to the model, absolute paths (external data, directory formats).
        versions: Opset, IR version, producer, and the like.
        findings: What is worth knowing before the slow part starts (`finding`, `blocker`), in order of importance.
        layers: Operators in execution order, where the reader can tell. Their precisions agree with `state.numerics`.
    """

    state: State
    signature: Signature
    operators: dict[str, int] = {}
    custom_operators: tuple[str, ...] = ()
    parameters: int | None = None
    size_bytes: int = 0
    files: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    findings: tuple[Remark, ...] = ()
    layers: tuple[Layer, ...] = ()


class Identification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a plugin recognised from the header bytes: never by executing the file."""

    format: str
    form: str = ""
    numerics: Numerics = Numerics.FP32
    detail: str = ""


class DescribeJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask a format's reader for a summary. Runs in a worker.

    Attributes:
        path: File or folder.
        form: The form that identification found.
        allow_pickle: As `ConvertOptions.allow_pickle`.
        allow_custom_ops: As `ConvertOptions.allow_custom_ops`.
        shapes: Input -> shape that the user gave, for files that hold none (TorchScript, builders).
        overrides: Whether `shapes` also take the place of sizes that the file declares: it is the user's own model. A
            reader that can open such sizes describes them as open; others pass over it.
        dtypes: Input -> dtype that the user gave, likewise.
        submodule: As `ConvertOptions.submodule`.
    """

    path: str
    form: str = ""
    allow_pickle: bool = False
    allow_custom_ops: bool = False
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, DType] = {}
    submodule: str = ""
    overrides: bool = False

    @property
    def file(self) -> Path:
        """The path as a `Path`."""
        return Path(self.path)
