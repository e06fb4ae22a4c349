"""Runtimes: where an artifact runs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from hub.spec.artifacts import ModelArtifact, ModelSummary
from hub.spec.edges import YES, Verdict
from hub.spec.errors import DeviceMissing, StepError

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to open a session.

    Attributes:
        variant: One of the runtime's `variants`; empty for its first.
        threads: Intra-op threads; 0 for the runtime's default.
        device: `cpu` or a device that the runtime knows.
        precision: What a float model is computed in: empty pins float32, so that a comparison compares nothing hidden;
            `auto` is what the runtime does by itself on this machine, as it will when it is deployed; or `f16`, `bf16`.
        keep_state: Whether hidden state lasts from one run of a session to the next, so that runs are one sequence.
        allow_pickle: As `ConvertOptions.allow_pickle`.
        allow_custom_ops: As `ConvertOptions.allow_custom_ops`.
        submodule: As `ConvertOptions.submodule`.
    """

    variant: str = ""
    threads: int = 0
    device: str = "cpu"
    precision: str = ""
    keep_state: bool = False
    allow_pickle: bool = False
    allow_custom_ops: bool = False
    submodule: str = ""

    def check_cpu(self, who: str) -> None:
        """For a runtime that has the CPU only, called `who`.

        Raises:
            DeviceMissing: Another device is asked for.
        """
        if self.device != "cpu":
            raise DeviceMissing(f"{who} runs on the cpu here, not on {self.device}", hint="use --device cpu")

    def check_float32(self, who: str) -> None:
        """For a runtime that computes float models in float32 only, called `who`.

        Raises:
            StepError: Another precision is asked for.
        """
        if self.precision not in {"", "auto", "f32"}:
            hint = "leave out --inference-precision"
            raise StepError(f"{who} computes in float32 here, not in {self.precision}", hint=hint)


class Session(Protocol):
    """An opened model. Each `run` is independent, unless it is opened with `keep_state`: hidden state is reset."""

    def run(self, feeds: "Feeds") -> "Feeds":
        """Run once. Takes and gives arrays by the artifact's own input and output names; the arrays are copies."""

    def close(self) -> None:
        """Release the model."""


@runtime_checkable
class RunsAsync(Protocol):
    """A session that can have several runs under way."""

    def run_async(self, feeds: "Feeds") -> "Future[Feeds]":
        """Start one run and return at once. `feeds` must not be changed before the future is done."""


@runtime_checkable
class ShowsIntermediates(Protocol):
    """A session that can show tensors inside the model."""

    def intermediate(self, names: Sequence[str]) -> Session:
        """Open the same model with the tensors in `names`, the file's own names, as its outputs.

        Raises:
            UnknownName: The model has no such tensor.
        """


@runtime_checkable
class KeepsState(Protocol):
    """A session whose models may hold state, which lasts between runs where it is opened with `keep_state`."""

    def reset_state(self) -> None:
        """Start the next sequence: all state as in a freshly opened session."""


class Runtime(ABC):
    """Runs artifacts: derive yours from this class, so that what is added to it later has a default for you.

    Instances are made without arguments, also in workers: `__init__` takes none. What its sessions can do besides:
    `RunsAsync`, `ShowsIntermediates`, `KeepsState`, `hub.spec.Explains`.

    Attributes:
        name: The runtime's name: `litert`.
        formats: Formats it opens.
        variants: Kernel sets that must all agree, the first is the default: `("xnnpack", "reference")`.
        requires: As `Edge.requires`; asked before the runtime is used.
        process: As `Edge.process`.
        targets: Suffix -> (format, form) of what is written for this runtime alone, the first is the default, so that
            its name is a target (`--to onnxruntime`): `{".onnx": ("onnx", "onnxruntime")}`.
        device: What edges call the device in `needs_device` (`cuda`) that its models run on, where not every machine
            has one; empty where they run on any.
    """

    name: str
    formats: tuple[str, ...]
    variants: tuple[str, ...] = ("",)
    requires: tuple[str, ...] = ()
    process: str = ""
    targets: Mapping[str, tuple[str, str]] = MappingProxyType({})
    device: str = ""

    def runs_here(self, summary: ModelSummary | None = None) -> Verdict:
        """Say whether `device` is on this machine, and runs a model; without one, any. Cheap, no framework import.

        Where it says no, a model in a format that this runtime's plugin reads is built and not run: the step before has
        proved the same computation, and the receipt says `aot-built` and never that the result was verified.
        """
        del summary
        return YES

    @abstractmethod
    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> Session:
        """Open a model in full float32 precision (no hidden bf16/tf32), unless `options.precision` asks for another.

        Runs in a worker.

        Raises:
            DeviceMissing: `options.device` is not there; the message lists those that are.
            StepError: The runtime refuses the model, or the precision that is asked for.
        """
