"""What a request aims at, and what can be said to its user where no route gets there."""

from collections.abc import Sequence

from hub._opening import Opened
from hub._plugins import Registry
from hub._request import Request
from hub._routing import FROM_FLOAT, stateful_form
from hub.spec import (
    AlreadyQuantized,
    FailedAttempt,
    HubError,
    NoRouteError,
    Numerics,
    ParityReport,
    ShapeNeeded,
    State,
    StepOutOfMemory,
    StepTimeout,
    TooSlow,
    UnsupportedModel,
    VerificationError,
)
from hub.spec.errors import error_from_code

_AS_IT_IS = {
    Numerics.INT8_MIXED: (Numerics.INT8,),
    Numerics.INT8_DYNAMIC: (Numerics.INT8_WEIGHTS, Numerics.FP32),
    Numerics.INT8_WEIGHTS: (Numerics.FP32,),
    Numerics.INT4_WEIGHTS: (Numerics.FP32,),
    Numerics.FP16: (Numerics.FP32,),
    Numerics.BF16: (Numerics.FP32,),
}
"""What a source's own precision may be in another format: ONNX counts the layers that multiply, TFLite all of them; and
half precision is written in float32 where a format has no half, such as Keras; and a model with integer weights alone,
or with ranges that are taken at run time, is written as a float copy where a format has no such form."""

_ROUNDING = 0.1
"""Relative error of an output that no precision's rounding explains; 0.67 was measured with two inputs swapped."""

_SOFTER = {
    Numerics.INT8: (Numerics.INT16X8, Numerics.INT8_DYNAMIC, Numerics.INT8_WEIGHTS),
    Numerics.INT4_WEIGHTS: (Numerics.INT8_DYNAMIC, Numerics.INT8_WEIGHTS),
}
"""What to try where a precision came out wrong, as far as the target has it."""


def wanted_numerics(request: Request, opened: Opened) -> Numerics:
    """The precision to reach: the one that was asked for, else the source's own."""
    return request.numerics or opened.summary.state.numerics


def goals_of(request: Request, registry: Registry, wanted: Numerics) -> tuple[State, ...]:
    """The state asked for, and behind it the mixed form, and with a speed to reach the dynamic one too."""
    name, form = registry.target(request.target, request.destination)
    form = stateful_form(registry, name, form) if request.options.states else form
    behind: Sequence[Numerics] = ()
    if wanted == Numerics.INT8 and not request.strict:
        behind = [Numerics.INT8_MIXED, *([Numerics.INT8_DYNAMIC] if request.require_speedup else [])]
    elif request.numerics is None:
        behind = _AS_IT_IS.get(wanted, ())
    return tuple(State(format=name, numerics=item, form=form) for item in (wanted, *behind))


def refuse_quantizing_twice(found: Numerics, wanted: Numerics, reason: NoRouteError) -> None:
    """Tell a model that is quantized already from one that no route takes.

    Raises:
        AlreadyQuantized: Another quantized precision was asked for.
    """
    if found != wanted and found.is_quantized and wanted.is_quantized:
        there = reason.details.get("offered")
        offered = ", ".join(str(item.value) for item in there) if isinstance(there, list) else ""
        raise AlreadyQuantized(
            f"the model is {found.value} already, and no step leads from there to {wanted.value}",
            hint=f"{FROM_FLOAT}" + (f"; not quantized again, it can be had in {offered}" if offered else ""),
        ) from reason


class RouteFailed(Exception):
    """A route was given up.

    Args:
        prefix: Its edges, up to and with the one that failed.
        error: Why.
        parity: What was measured, where the result was wrong.
        refused: Whether the edge did not even run.
    """

    def __init__(
        self, prefix: tuple[str, ...], error: HubError, parity: ParityReport | None = None, *, refused: bool = False
    ) -> None:
        super().__init__(str(error))
        self.prefix = prefix
        self.error = error
        self.parity = parity
        self.refused = refused

    def attempt(self, route: tuple[str, ...], title: str) -> FailedAttempt:
        """The same for the receipt."""
        log = self.error.log
        return FailedAttempt(
            route=route,
            edge=self.prefix[-1],
            title=title,
            code=self.error.code,
            message=self.error.message,
            refused=self.refused,
            log=log,
            reproduce=f"python {log}/reproduce.py" if log else "",
            parity=self.parity,
        )


def all_failed(
    failures: Sequence[RouteFailed], attempts: Sequence[FailedAttempt], wanted: Numerics, offered: set[Numerics],
    noise: str, uncovered: str = "",
) -> HubError:  # fmt: skip
    """One error for all routes: verification where a result was wrong, else what came nearest to one.

    Args:
        failures: At least one, in order.
        attempts: The same for the error's details.
        wanted: The precision asked for.
        offered: Precisions that the target has.
        noise: What is to be said of the source's own noise.
        uncovered: What the calibration data lacks, which is the hint then.
    """

    def nearness(item: FailedAttempt) -> tuple[bool, int]:
        """Whether it ran, and how few steps were left then."""
        return not item.refused, item.route.index(item.edge) - len(item.route)

    code = max(reversed(attempts), key=nearness).code
    if any(item.parity for item in failures):
        code = VerificationError.code
    if any(isinstance(item.error, TooSlow) for item in failures):
        code = TooSlow.code
    # One cause: of the attempts that say what the error says, the first of those that came nearest.
    telling = [item for item in attempts if item.code == code] or attempts
    cause = max(telling, key=nearness)
    more = f" ({len(attempts) - 1} more ways failed: -v)" if len(attempts) > 1 else ""
    message = f"no route gave a right {wanted.value} model. {cause.title or cause.edge}: {cause.message}{more}{noise}"
    named = next(failure for failure, item in zip(failures, attempts, strict=True) if item is cause)
    error = error_from_code(code, message, uncovered or _advice(code, failures, named, wanted, offered))
    error.log = next((item.log for item in reversed(attempts) if item.log), "")
    error.details = {"attempts": list(attempts)}
    return error


def _advice(
    code: str, failures: Sequence[RouteFailed], named: RouteFailed, wanted: Numerics, offered: set[Numerics]
) -> str:
    if code == TooSlow.code:
        return "accept what was measured: a lower --require-speedup, or none"
    hinted = [item for item in failures if item.error.hint]
    if code in {StepTimeout.code, StepOutOfMemory.code, UnsupportedModel.code, ShapeNeeded.code} and hinted:
        # Else of what stops it earliest, which stops most routes.
        return named.error.hint or min(hinted, key=lambda item: len(item.prefix)).error.hint
    measured = [item.parity for item in failures if item.parity] if code == VerificationError.code else []
    if measured and all(report.inputs == "random" for report in measured):
        error = min(output.relative for report in measured for output in report.outputs if output.failures)
        if error > _ROUNDING:
            return (
                f"an error of {error:.0%} is no rounding: compare the order of inputs and outputs, layouts, state kept "
                "from run to run; or the model is not made for random inputs: give real ones, --test DATA"
            )
        return "the inputs were random, which the model may not be made for: give real ones, --test DATA"
    names = [item.value for item in _SOFTER.get(wanted, ()) if item in offered]
    if names:
        return f"try --precision {' or '.join(names)}"
    log = next((item.error.log for item in reversed(failures) if item.error.log), "")
    return f"the log says more: {log}/log.txt" if log else "`hub plan -v` says what each way does"
