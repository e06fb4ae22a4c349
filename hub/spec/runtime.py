"""Runtimes: where an artifact runs."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from hub.spec.artifacts import ModelArtifact, ModelSummary
from hub.spec.edges import Verdict

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to open a session.

    Attributes:
        variant: One of the runtime's `variants`; empty for its first.
        threads: Intra-op threads; 0 for the runtime's default.
        device: `cpu` or a device that the runtime knows.
        allow_pickle: As `ConvertOptions.allow_pickle`.
        allow_custom_ops: As `ConvertOptions.allow_custom_ops`.
        submodule: As `ConvertOptions.submodule`.
    """

    variant: str = ""
    threads: int = 0
    device: str = "cpu"
    allow_pickle: bool = False
    allow_custom_ops: bool = False
    submodule: str = ""


class Session(Protocol):
    """An opened model. Each `run` is independent: hidden state is reset before it."""

    def run(self, feeds: "Feeds") -> "Feeds":
        """Run once. Takes and gives arrays by the artifact's own input and output names; the arrays are copies."""

    def close(self) -> None:
        """Release the model."""


@runtime_checkable
class Runtime(Protocol):
    """Runs artifacts. Instances are made without arguments, also in workers: `__init__` takes none.

    A runtime that can also gives `run_async`, `intermediate(names)`, `placement()` and `fusions()` on its sessions.
    """

    @property
    def name(self) -> str:
        """The runtime's name: `litert`."""

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats it opens."""

    @property
    def variants(self) -> tuple[str, ...]:
        """Kernel sets that must all agree, the first is the default: `('xnnpack', 'reference')`, or `('',)`."""

    @property
    def requires(self) -> tuple[str, ...]:
        """As `Edge.requires`."""

    @property
    def process(self) -> str:
        """As `Edge.process`."""

    def check(self, summary: ModelSummary) -> Verdict:
        """Say whether this runtime can open the model. Cheap, total, no framework import."""

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> Session:
        """Open a model in full float32 precision (no hidden bf16/tf32). Runs in a worker.

        Raises:
            StepError: The runtime refuses the model.
        """
