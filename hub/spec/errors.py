"""Errors: one base, one code and one exit status each, a message with the values, and one thing to do."""

from collections.abc import Iterator
from typing import ClassVar


class HubError(Exception):
    """Base of every error that hub raises on purpose.

    Args:
        message: What happened, with the values.
        hint: One thing to do, with the exact command or flag where there is one.

    Attributes:
        log: Folder of the failed step (its log, its job, a script that runs it again); empty where no step ran.
        details: More for `--json`: records that JSON can hold, such as the routes that were tried.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = ""
        self.details: dict[str, object] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[HubError], message: str, hint: str) -> HubError:
    return kind(message, hint=hint)


class UsageError(HubError):
    """The request cannot be carried out as it was written."""

    code = "usage"
    exit_status = 2


class ModelNotFound(UsageError):
    """No file, folder or builder of that name."""

    code = "model-not-found"


class ModelUnreadable(UsageError):
    """The file is empty, truncated, random bytes, or not of the format its name claims."""

    code = "model-unreadable"


class ForeignModel(UsageError):
    """Code gave a model of another framework than the one whose reader ran it: the others are asked."""

    code = "foreign-model"


class ModelRefused(UsageError):
    """Reading the model would execute code that came with it (pickle, Lambda layer), and nobody allowed that."""

    code = "model-refused"


class ExternalDataError(UsageError):
    """External data of the model is missing, truncated, or outside the model's folder."""

    code = "external-data"


class UnknownName(UsageError):
    """A target, precision, input or runtime of that name does not exist."""

    code = "unknown-name"


class ShapeNeeded(UsageError):
    """A dynamic dimension must be given a size, because the target cannot keep it."""

    code = "shape-needed"


class CalibrationError(UsageError):
    """The calibration data does not fit the model: name, shape, dtype, NaN, count."""

    code = "calibration"


class AlreadyQuantized(UsageError):
    """The model is quantized already; quantizing it again would round twice what was rounded once."""

    code = "already-quantized"


class OutputExists(UsageError):
    """The output path exists; it is replaced only on request."""

    code = "output-exists"


class OutputNotWritable(UsageError):
    """The output path is a directory, or lies where nothing can be written."""

    code = "output-not-writable"


class NoRouteError(HubError):
    """No chain of edges leads from the model to the target."""

    code = "no-route"
    exit_status = 3


class UnsupportedModel(NoRouteError):
    """The model holds something that the edge or the target cannot express (operator, dtype, dimension)."""

    code = "unsupported-model"


class SetupError(HubError):
    """The environment: a plugin is missing or broken, a toolchain cannot be built."""

    code = "setup"
    exit_status = 4


class PluginBroken(SetupError):
    """A plugin is installed and does not load."""

    code = "plugin-broken"


class DependencyMissing(SetupError):
    """A plugin or a library that this needs is not installed."""

    code = "dependency-missing"


class ToolchainError(SetupError):
    """An edge's own environment could not be built."""

    code = "toolchain"


class DeviceMissing(SetupError):
    """The device that was asked for is not there."""

    code = "device-missing"


class StepError(HubError):
    """A step failed."""

    code = "step-failed"
    exit_status = 5


class StepCrashed(StepError):
    """The step's process died (signal, exit) before it answered."""

    code = "step-crashed"


class StepTimeout(StepError):
    """The step ran past its time limit and was stopped."""

    code = "step-timeout"


class StepOutOfMemory(StepError):
    """The step went past its memory limit and was stopped."""

    code = "step-memory"


class EffectError(StepError):
    """A step's output is not what its edge declared: format, numerics, signature, operators."""

    code = "step-effect"


class VerificationError(HubError):
    """The result was measured and does not compute the same thing as the source."""

    code = "parity"
    exit_status = 6


class NothingCompared(VerificationError):
    """A comparison over no samples, no elements, or non-finite reference values proves nothing."""

    code = "nothing-compared"


class NoEvidence(VerificationError):
    """No bound is broken, and the samples are such that a broken result would look right too: nothing is proved."""

    code = "no-evidence"
    exit_status = 8


class TooSlow(VerificationError):
    """The result was timed and is not as much faster than its float form as was required."""

    code = "too-slow"


class StoreError(HubError):
    """Reading or writing the cache, or publishing the result, failed."""

    code = "store"
    exit_status = 7


class InternalError(HubError):
    """A defect in hub."""

    code = "internal"
    exit_status = 70


def error_classes(base: type[HubError] = HubError) -> Iterator[type[HubError]]:
    """Yield `base` and every class below it, parents first."""
    yield base
    for child in base.__subclasses__():
        yield from error_classes(child)


def error_from_code(code: str, message: str, hint: str) -> HubError:
    """Rebuild an error that crossed a process boundary; an unknown code becomes a `StepError`.

    A plugin's error may be made of other arguments than a message: it is rebuilt without its own `__init__`.
    """
    kind = {kind.code: kind for kind in error_classes()}.get(code, StepError)
    error = kind.__new__(kind, message)
    HubError.__init__(error, message, hint=hint)
    return error
