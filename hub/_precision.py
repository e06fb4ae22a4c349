"""Proof that a float32 comparison was one: a runtime that computes in half passes float32's gate on many models."""

from typing import TYPE_CHECKING

from hub._bindings import keeps_state
from hub._candidate import Candidate
from hub._measure import Reference, run_result
from hub._opening import Opened
from hub._runner import Runner
from hub.spec import Numerics, ParityReport, SampleFolder, VerificationError, write_sample

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub.spec import Feeds

    Array = npt.NDArray[np.generic]

PROVED_DB = 120.0
"""SQNR that no half-precision runtime reaches: rounding to 11 bits leaves 73 dB, 87 was measured where sums average
the errors out. What comes closer to the source than this is float32, and is not asked again."""

KEPT_BITS = 8
"""Significant bits of the first probe: bfloat16 holds them, so that float16, TF32 and bfloat16 all begin exact."""

STEP = 2.0**-12
"""Relative step to the second probe: less than half a unit in the last place of float16 (11 bits) and so lost there;
2000 units of float32 (24 bits)."""

NOTICED = 2.0**-16
"""Change of the source's outputs, as a part of the largest, from which on one of the result is due too."""


def prove_float32(
    runner: Runner, source: Opened, result: Candidate, reference: Reference, parity: ParityReport | None
) -> None:
    """Refuse a float32 result whose runtime does not tell inputs apart that float32 does and half precision cannot.

    Two samples, the second a step of 2^-12 from the first: the source's outputs move, so the result's must, in every
    kernel set. Where the source's do not move, or nothing but integers goes in, this cannot be asked.

    Raises:
        VerificationError: Bit for bit the same outputs.
    """
    states = source.artifact.state, result.artifact.state
    known = parity is not None and parity.worst.sqnr_db >= PROVED_DB
    if known or any(state.numerics != Numerics.FP32 for state in states) or keeps_state(result.chain):
        return
    feeds = next(iter(SampleFolder(reference.inputs[0])))
    folder = runner.folder()
    for index, step in enumerate((0.0, STEP)):
        write_sample(folder, index, {name: _probe(array, step) for name, array in feeds.items()})
    inputs = (str(folder), f"{reference.inputs[1]} probes of float32")
    own = Candidate(artifact=source.artifact, summary=source.summary, options=result.options)
    if not _moves(*SampleFolder(run_result(runner, own, inputs))):
        return
    runtime = runner.registry.runtime_for(result.artifact.state.format, result.runtime)
    for variant in runtime.variants:
        before, after = SampleFolder(run_result(runner, result, inputs, variant))
        if all(before[name].tobytes() == after[name].tobytes() for name in before):
            name = f"{runtime.name} {variant}".strip()
            message = f"{name} gives the same outputs, bit for bit, for inputs 2^-12 apart, and the source does not"
            hint = "its runtime computes in less than the float32 that was asked for, or the file itself does"
            raise VerificationError(message, hint=hint)


def _probe(array: "Array", step: float) -> "Array":
    """Floats rounded to `KEPT_BITS` bits, and moved by a relative step; anything else as it is."""
    import numpy as np

    if array.dtype not in (np.float32, np.float64):
        return array
    fraction, exponent = np.frexp(array)
    kept = np.ldexp(np.round(fraction * 2**KEPT_BITS) / 2**KEPT_BITS, exponent)
    moved: Array = (kept * (1 + step)).astype(array.dtype)
    return moved


def _moves(before: "Feeds", after: "Feeds") -> bool:
    import numpy as np

    changes = (
        (np.abs(np.subtract(after[name], array, dtype=np.float64)).max(initial=0), np.abs(array).max(initial=0))
        for name, array in before.items()
        if array.dtype.kind == "f"
    )
    return any(change > NOTICED * largest for change, largest in changes)
