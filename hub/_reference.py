"""The samples of a run, and what the source makes of them; sizes that nobody names are tried where they stay open."""

from pathlib import Path

import msgspec
import numpy as np

from hub._measure import Reference, reference_of, whole_inputs
from hub._opening import Opened
from hub._request import Request
from hub._runner import Runner
from hub._sampling import Samples, prepare_samples
from hub._shapes import GUESSES
from hub.spec import Remark, SampleFolder, ShapeNeeded, StepError

UNCOVERED = 2.0
"""Ratio of largest magnitudes from which data holds what the calibration data does not."""


def samples_and_reference(request: Request, runner: Runner, opened: Opened, *, fix: bool) -> tuple[Samples, Reference]:
    """Load or draw samples and run the source on them, at two sizes where dimensions stay open.

    Args:
        request: The request.
        runner: To run the source.
        opened: The source.
        fix: Whether every dimension is to be fixed; otherwise hub finds a size at which the source runs.

    Raises:
        ShapeNeeded: A dimension is symbolic and nothing says its size, or the source runs at none that hub tries.
        CalibrationError: The data does not fit the model.
    """
    try:
        return _at(request, runner, opened, fix=fix)
    except ShapeNeeded:
        if fix:
            raise
        return _guessed(request, runner, opened)


def _guessed(request: Request, runner: Runner, opened: Opened) -> tuple[Samples, Reference]:
    tried: list[str] = []
    for guess in GUESSES:
        try:
            return _at(request, runner, opened, fix=False, guess=guess)
        except StepError as error:  # the model does not run at this size
            tried.append(f"{guess}: {error.message.splitlines()[0]}")
    raise ShapeNeeded(
        f"the source runs at no size that hub tried for its open dimensions ({'; '.join(tried)[:600]})",
        hint="give real inputs, --test DATA, or fix the sizes, --shape INPUT=...",
    )


def _at(request: Request, runner: Runner, opened: Opened, *, fix: bool, guess: int = 0) -> tuple[Samples, Reference]:
    samples = prepare_samples(request, runner, opened.summary.signature, fix=fix, guess=guess)
    if request.options.states and samples.calibration[0]:
        calibration = whole_inputs(runner, opened.artifact, samples.calibration, samples.options)
        samples = msgspec.structs.replace(samples, calibration=calibration)
    reference = reference_of(runner, opened.artifact, samples.check, samples.kind, samples.options)
    for inputs, shapes in samples.others:
        size = ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items() if shape)
        try:
            other = reference_of(runner, opened.artifact, inputs, samples.kind, samples.options)
        except StepError as error:
            reason = error.message.splitlines()[0][:200]
            text = f"not compared at {size}: the source does not run there ({reason})"
            remark = Remark("warning", "size-not-compared", text)
            samples = msgspec.structs.replace(samples, remarks=(*samples.remarks, remark))
            continue
        other = msgspec.structs.replace(other, size=f"at {size}")
        reference = msgspec.structs.replace(reference, others=(*reference.others, other))
    return samples, reference


def uncovered(runner: Runner, opened: Opened, samples: Samples, reference: Reference) -> str:
    """What explains a wrong result by its calibration data: `beyond`, of the inputs, else of the source's outputs."""
    known = reference_of(runner, opened.artifact, samples.calibration, samples.kind, samples.options)
    inputs = beyond("input", Path(reference.inputs[0]), Path(known.inputs[0]))
    return inputs or beyond("output", reference.outputs, known.outputs)


def beyond(what: str, checked: Path, calibrated: Path) -> str:
    """Says which array is far larger in the samples of one folder than in those of another; empty where none is."""
    peaks: list[dict[str, float]] = [{}, {}]
    for found, folder in zip(peaks, (checked, calibrated), strict=True):
        for feeds in SampleFolder(folder):
            for name, array in feeds.items():
                if array.size and np.issubdtype(array.dtype, np.floating):
                    found[name] = max(found.get(name, 0.0), float(np.abs(array).max()))
    for name, peak in peaks[0].items():
        most = peaks[1].get(name, peak)
        if peak > UNCOVERED * most:
            return (
                f"calibrate on data like the test data: {what} {name} goes to {peak:.3g} there, and to {most:.3g} in "
                "the calibration data, so that larger values are cut off"
            )
    return ""
