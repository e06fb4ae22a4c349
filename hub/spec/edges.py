"""Edges: one offered step from states to states, with the code that does it; and formats, which read what it wrote."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, TypeVar

import msgspec

from hub.spec.artifacts import DescribeJob, ModelArtifact, ModelSummary
from hub.spec.numerics import Numerics, State, form_satisfies
from hub.spec.recipes import QuantRecipe
from hub.spec.remarks import Remark, RemarkCode
from hub.spec.tensors import Dim, DimRange, DType

T = TypeVar("T")


class Support(StrEnum):
    """Five-valued capability. Only `YES` is true."""

    YES = "yes"
    NOTIMPL = "notimpl"
    NOTYET = "notyet"
    NEVER = "never"
    UNKNOWN = "unknown"

    def __bool__(self) -> bool:
        return self is Support.YES


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether an edge can take a model, and why not.

    Attributes:
        support: Whether it can.
        reason: Why not, with the values.
        hint: What to do about it.
        code: The reason's own code among remarks (see `hub.spec.Remark`); by default `edge-refuses`.
    """

    support: Support
    reason: str = ""
    hint: str = ""
    code: RemarkCode = "edge-refuses"

    def __bool__(self) -> bool:
        return bool(self.support)


YES = Verdict(support=Support.YES)
"""The verdict of an edge that takes the model."""


class Toolchain(msgspec.Struct, frozen=True, kw_only=True):
    """An environment of its own, for an edge whose pins fight with everything else.

    It is built once into the cache with uv, never into the user's environment. The worker inside sees `hub.spec`, the
    worker module and the plugin's own package, so `requires` must hold msgspec, pluggy and numpy besides the tool.

    Attributes:
        name: Unique.
        requires: Locked requirement lines (`name==version`), the whole closure: installed with `--no-deps`.
        python: Python version, such as `3.11`.
        forced: Locked lines of distributions that declare a newer Python than they need.
        forced_python: The version that uv is told for those lines.
    """

    name: str
    requires: tuple[str, ...]
    python: str = "3.11"
    forced: tuple[str, ...] = ()
    forced_python: str = ""


class ConvertOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the user asked for beyond target and precision.

    Attributes:
        shapes: Input -> fixed shape. By the time an edge without `keeps_dynamic` runs, every symbolic input is here.
        ranges: Input -> the sizes that each dimension is to take; the input stays dynamic.
        build_for: Devices that the result is built for, in the backend's words; empty for its default. The result's
            reader tells them in `versions`, as `built for`.
        dtypes: Input -> dtype, where the model file does not say (builders, TorchScript).
        constants: Input -> value; the input is frozen to it and leaves the signature.
        states: Input -> output that it is fed from in the next run, zeros in the first; the result keeps it itself, and
            both leave the signature.
        io_layout: `nhwc` or `nchw`: give 4-D inputs and outputs this layout; empty keeps the source's, which is NCHW
            where its reader tells no `TensorSpec.layout`.
        io_dtype: `int8`: integer inputs and outputs; empty keeps the source's.
        allow_pickle: The user allows code that comes with the model to run, in the worker.
        allow_custom_ops: The user allows Flex and custom operators in the result.
        submodule: Dotted path of the submodule to convert instead of the whole module; empty for the whole. Reader and
            runtime get it too, and refuse one that there is not.
        seed: For anything that draws random numbers.
    """

    shapes: dict[str, tuple[int, ...]] = {}
    ranges: dict[str, tuple[DimRange, ...]] = {}
    build_for: tuple[str, ...] = ()
    dtypes: dict[str, DType] = {}
    constants: dict[str, int | float | bool] = {}
    states: dict[str, str] = {}
    io_layout: str = ""
    io_dtype: str = ""
    allow_pickle: bool = False
    allow_custom_ops: bool = False
    submodule: str = ""
    seed: int = 0


class ConvertJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a step needs: files in, files out.

    Attributes:
        target: The state to write, one of those that the edge gives.
        source: Input artifact. The file must not be changed; the core checks it.
        output: Path to write: a file, or a folder for a directory format. Its parent exists, is empty and is the step's
            own. Side files (external data, weights of a source file) go beside it, with names that start with the
            output's stem; `summary.files` of the format's reader names them.
        options: The request.
        calibration: Folder of samples (see `hub.spec.calibration.SampleFolder`); empty when there is none.
        scratch: An empty folder for anything else.
        watch: For `hub.spec.StepWatch`, by which a step that searches for long tells how it goes, and hears that it is
            to end with the best so far; empty where nobody waits.
    """

    target: State
    source: ModelArtifact
    output: str
    scratch: str
    options: ConvertOptions = ConvertOptions()
    calibration: str = ""
    watch: str = ""


class IoBinding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one input or output of a step's source reappears in its result, where it is not simply the same.

    The core feeds the result through these, so a declared change is also a tested one.

    Attributes:
        direction: `input` or `output`.
        source: Name in the source.
        target: Name in the result; empty when the input was frozen away, or is kept inside the result.
        reason: Why it changed, for the receipt.
        dtype: The result's dtype when it differs: inputs are cast to it, outputs cast back.
        dropped: Axes of the source, each of size 1, that the result has not: a batch axis, for runtimes without one.
        permutation: result axes = the source's remaining axes transposed by this; empty for none.
        shape: The result's dimensions where it takes fewer sizes than the source, such as a bound of 512 on a length.
        scale: Quantized I/O: real = scale * (q - zero_point); 0 for none.
        zero_point: See `scale`.
        constant: The value that a removed input was frozen to.
        state: The output, also removed, that a removed input is fed from in the next run.
    """

    direction: Literal["input", "output"]
    source: str
    target: str
    reason: str = ""
    dtype: DType | None = None
    dropped: tuple[int, ...] = ()
    permutation: tuple[int, ...] = ()
    shape: tuple[Dim, ...] = ()
    scale: float = 0.0
    zero_point: int = 0
    constant: int | float | bool | None = None
    state: str = ""

    def moved(self, shape: tuple[T, ...]) -> tuple[T, ...]:
        """A shape of the source as the result has it."""
        kept = tuple(size for axis, size in enumerate(shape) if axis not in self.dropped)
        return tuple(kept[axis] for axis in self.permutation) if self.permutation else kept


class StepOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a step did.

    Attributes:
        notes: Every preparation, repair and second try, one each, for the plan, the summary and the receipt.
        bindings: Every input or output that is not simply the same (name, dtype, layout); nothing else may change.
        recipe: The quantization recipe that was applied.
    """

    notes: tuple[Remark, ...] = ()
    bindings: tuple[IoBinding, ...] = ()
    recipe: QuantRecipe | None = None


def takes_all(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """The check of an edge that takes every model in its states."""
    del summary, options
    return YES


def allows_all(options: ConvertOptions) -> Verdict:
    """What an edge answers that has nothing against any request."""
    del options
    return YES


def takes_unblocked(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """The check of an edge that takes every model in which the reader found nothing that stands in every way."""
    del options
    found = next((finding for finding in summary.findings if finding.kind == "blocker"), None)
    return Verdict(support=Support.NEVER, reason=found.text, hint=found.hint, code=found.code) if found else YES


ANY: Literal["any"] = "any"
"""Every numerics that the format's reader tells: `Accepts(format="onnx", numerics=ANY)`."""

KEEP: Literal["keep"] = "keep"
"""The result computes in what its source computes in: `Gives(format="onnx", numerics=KEEP)`."""

Honoured = Literal["build_for", "constants", "io_dtype", "io_layout", "states", "submodule"]
"""Options that change what the result is. Somebody on the route has to carry them out, or there is no route."""


class Accepts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """States that an edge starts from.

    Attributes:
        format: The format's name.
        form: The least form that will do: one that starts from `prepared` models takes `static` ones too.
        numerics: What the model may compute in, or `ANY`.
    """

    format: str
    form: str = ""
    numerics: tuple[Numerics, ...] | Literal["any"] = (Numerics.FP32,)

    def takes(self, state: State) -> bool:
        """Whether a state is one of these."""
        fits = self.numerics == ANY or state.numerics in self.numerics
        return fits and state.format == self.format and form_satisfies(state.form, self.form)


class Gives(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """States that an edge ends in.

    Attributes:
        format: The format's name.
        form: The form; empty for the plain one.
        numerics: What the result computes in; `KEEP` for what the source computes in.
        read_as: Numerics -> what the format's reader may call them instead, because it counts other layers than the
            source's reader: ONNX calls a file int8 when every product is, TFLite when every layer is. The core takes
            the file for what its reader finds.
    """

    format: str
    form: str = ""
    numerics: Numerics | Literal["keep"] = Numerics.FP32
    read_as: dict[Numerics, Numerics] = {}

    def states(self, source: Numerics) -> tuple[State, ...]:
        """The states that a source of these numerics may end in, the expected one first."""
        expected = source if self.numerics == KEEP else self.numerics
        words = (expected, *(word for before, word in self.read_as.items() if before == expected))
        return tuple(State(format=self.format, numerics=word, form=self.form) for word in words)


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """One offered step: the states between which it leads, whether it takes a model, and the code that does it.

    Attributes:
        id: `<plugin>.<verb>`, unique, such as `pytorch.tflite-litert`.
        accepts: States that it takes.
        gives: States that it ends in.
        convert: The step: reads `job.source.path`, writes `job.output`. Runs in a worker, may import the framework,
            and raises `UnsupportedModel` where the model holds something that the edge cannot express, `StepError`
            where the tool failed.
        check: Says whether it takes a model. Cheap, total, imports no framework, never raises.
        allows: Says whether it can do what the request asks, whatever the model: asked of every edge before anything is
            run, where `check` has to wait for the model that it starts from.
        honours: The options that it carries out. A route on which nobody carries out what is asked for is left out.
        lossy: Whether it changes what is computed beyond float rounding.
        needs_calibration: Whether it reads calibration samples.
        deterministic: Same input, same output: only then is it cached.
        adopts: Whether it takes a narrow model only where the user gives one: none that a step on the way made of a
            float32 model, such as another backend's integers.
        keeps_dynamic: Whether symbolic dimensions survive; otherwise the core asks for shapes first.
        needs_ranges: Whether they survive only where the request says which sizes each is to take.
        needs_device: A device that must be there, as a runtime calls it (`Runtime.device`): `cuda`; empty for none.
        requires: Requirement lines of what must be installed, such as `litert-torch>=0.10`. A line may name
            alternatives, the one to install first: `tensorflow-cpu>=2.19 | tensorflow>=2.19`.
        optional: Whether its plugin does well without it: nothing is to be mended where `requires` is not there.
        toolchain: The environment of its own that it runs in; None for the user's environment.
        environment: Variables set before the worker process starts (KERAS_BACKEND).
        process: Steps with the same word share one worker process, so that a framework is imported once.
        cost: Relative effort; smaller is tried first among routes with the same number of lossy steps.
        title: A few words for the plan: `LiteRT Torch`.
        formerly: Ids of earlier versions, so that old receipts, `--avoid` and expectations still mean it.
    """

    id: str
    accepts: tuple[Accepts, ...]
    gives: Gives
    convert: Callable[[ConvertJob], StepOutput]
    check: Callable[[ModelSummary, ConvertOptions], Verdict] = takes_all
    allows: Callable[[ConvertOptions], Verdict] = allows_all
    honours: tuple[Honoured, ...] = ()
    lossy: bool = False
    needs_calibration: bool = False
    deterministic: bool = True
    adopts: bool = False
    keeps_dynamic: bool = False
    needs_ranges: bool = False
    needs_device: str = ""
    requires: tuple[str, ...] = ()
    optional: bool = False
    toolchain: Toolchain | None = None
    environment: dict[str, str] = {}
    process: str = ""
    cost: float = 1.0
    title: str = ""
    formerly: tuple[str, ...] = ()

    def keeps(self, options: ConvertOptions) -> bool:
        """Whether symbolic dimensions survive it in a request."""
        return self.keeps_dynamic and (bool(options.ranges) or not self.needs_ranges)

    def takes(self, state: State) -> bool:
        """Whether it starts from a state."""
        return any(offer.takes(state) for offer in self.accepts)


class Format(ABC):
    """A format's reader: derive yours from this class, so that what is added to it later has a default for you.

    Instances are made without arguments, also in workers: `__init__` takes none.

    Attributes:
        name: The format's name: `onnx`.
        suffixes: File suffixes, the first is the one that hub writes: `(".onnx",)`.
        numerics: Numerics in which conversions may start and end: the reader tells them, and a runtime computes in
            them.
        requires: As `Edge.requires`.
        process: As `Edge.process`: which worker process the reader runs in.
        side_suffixes: Suffixes of the files that stand beside the model under its stem, where a model is several files:
            `(".bin",)`. A user may well name the wrong one.
        written_forms: Suffix of the output path -> form that it asks for, besides the first suffix, which writes the
            plain form: `{".py": "source"}`.
    """

    name: str
    suffixes: tuple[str, ...]
    numerics: tuple[Numerics, ...] = (Numerics.FP32,)
    requires: tuple[str, ...] = ()
    process: str = ""
    side_suffixes: tuple[str, ...] = ()
    written_forms: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def describe(self, job: DescribeJob) -> ModelSummary:
        """Read a model. Runs in a worker; may import the framework.

        Raises:
            ModelUnreadable: The file is not a valid model of this format.
            ModelRefused: Reading it would execute code that came with it.
            ExternalDataError: Data files are missing or outside the folder.
        """
