"""The parity gate: outputs of a result against outputs of the source, sample by sample, output by output."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hub._tally import Tally
from hub.spec import (
    Accuracy,
    DType,
    EffectError,
    InputsKind,
    ModelSummary,
    NoEvidence,
    NothingCompared,
    Numerics,
    OutputParity,
    ParityPolicy,
    ParityReport,
    Part,
    SampleFolder,
    with_quiet_parts,
)
from hub.spec.parts import OutputProfile, is_classifier, profiles_of, quiet_parts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

_NOISE = "noise power at most {:.2%} of signal power"
_EIGHT_BITS = 1 / 128
"""Two steps of a grid of 255 over an output's values: what moves by less, such a grid shows as noise."""

_HALF = 2 * 2.0**-11


def _bounds(numerics: Numerics, sqnr: float, top1: float, why: str, movement: float = _EIGHT_BITS) -> ParityPolicy:
    """A quantized gate. With noise uncorrelated to the signal, SQNR s gives cosine 1/sqrt(1 + 10^(-s/10)).

    Without the source's mean, and of one sample or component, 10 dB less are asked: the mean may be nine tenths of the
    power, and a result that is constant, or zero in one place, has 0 dB there, whatever the rest is.
    """
    noise = 10 ** (-sqnr / 10)
    return ParityPolicy(
        numerics=numerics,
        sqnr_min_db=sqnr,
        cosine_min=math.floor(1e4 / math.sqrt(1 + noise)) / 1e4,  # rounding up would ask fp16 for a cosine of 1
        top1_min=top1,
        centred_min_db=max(sqnr - 10, _LOST_DB),
        single_min_db=max(sqnr - 10, _LOST_DB),
        movement_min=movement,
        source=f"{_NOISE.format(noise)}; {why}",
    )


_LOST_DB = 2.0
"""What is constant, or zero, where it should not be has 0 dB."""

_FLOAT_WHY = "float32 rounds at 6e-8; reordered sums of deep networks measured 1e-7 to 3e-5, wrong ones above 1e-2"
POLICIES: dict[Numerics, ParityPolicy] = {
    Numerics.FP32: ParityPolicy(numerics=Numerics.FP32, relative_max=1e-4, source=_FLOAT_WHY),
    Numerics.FP16: _bounds(
        Numerics.FP16,
        34,
        0.99,
        "float16 rounds at 5e-4 (66 dB a layer); sound ones measured 44 dB and more with float32 sums, and 36 to 39.5 "
        "(a text recogniser, top-1 100 %) where a runtime sums in float16; 2 dB below those",
        _HALF,
    ),
    Numerics.BF16: _bounds(Numerics.BF16, 25, 0.97, "bfloat16 rounds at 4e-3 (48 dB a layer)"),
    Numerics.INT8: _bounds(
        Numerics.INT8, 13, 0.95, "broken static int8 networks measured below 8 dB, sound ones above 15"
    ),
    Numerics.INT8_MIXED: _bounds(Numerics.INT8_MIXED, 13, 0.95, "the gate of int8"),
    Numerics.INT8_DYNAMIC: _bounds(Numerics.INT8_DYNAMIC, 13, 0.95, "sound ones measured cosine 0.98 and more"),
    Numerics.INT8_WEIGHTS: _bounds(Numerics.INT8_WEIGHTS, 20, 0.97, "weights alone carry less noise than activations"),
    Numerics.INT16X8: _bounds(Numerics.INT16X8, 15, 0.95, "int8 weights set the noise, int16 activations add little"),
    Numerics.INT4_WEIGHTS: _bounds(Numerics.INT4_WEIGHTS, 10, 0.9, "4-bit weights: about 17 dB a layer"),
    Numerics.FP8: _bounds(Numerics.FP8, 13, 0.95, "E4M3 rounds at 6e-2 (30 dB a layer)"),
}
"""The gate of each precision. `docs/reference/gates.md` is generated from this table."""


_ROUNDED = frozenset({Numerics.INT8, Numerics.INT8_MIXED, Numerics.INT16X8, Numerics.INT8_DYNAMIC, Numerics.FP8})
"""Precisions that round activations."""


def gate_of(source: ModelSummary, numerics: Numerics, *, carries: bool = False) -> ParityPolicy:
    """The gate of a result in some precision; `carries` where it keeps the source's own (see `carried`).

    A source that computes in half precision is itself off by half's rounding, which a float32 result of it has not: no
    more can be asked of the two than of a half model. One that only stores its weights narrow (`fp16-weights`) computes
    in float32. Likewise one that rounds activations to integers, of which the result is a float copy.
    """
    own = source.state.numerics
    if numerics == Numerics.FP32 and own in _ROUNDED:
        why = f"the source rounds to {own.value} at its layers, the result does not: {POLICIES[own].source}"
        return msgspec.structs.replace(POLICIES[own], numerics=numerics, source=why)
    halves = [
        word for word in (Numerics.BF16, Numerics.FP16) if any(layer.precision == word for layer in source.layers)
    ]
    if numerics != Numerics.FP32 or not halves:
        return carried(numerics) if carries else POLICIES[numerics]
    plain = POLICIES[halves[0]]
    why = f"the source rounds to {halves[0].value} at each layer, the result does not: {plain.source}"
    return msgspec.structs.replace(plain, numerics=numerics, source=why)


def carried(numerics: Numerics) -> ParityPolicy:
    """The gate of a step that keeps a quantized source's scales: only the runtimes' rounding differs.

    Kernels round a requantized sum to either neighbour. 25 dB is what an error of one step leaves of a signal that
    spans 60 steps; a wrong scale or zero point leaves less. Dynamic-range files keep the plain gate: each kernel set
    draws ranges its own way (18.7 dB between LiteRT's two on a text recogniser, 27 to 45 dB on five other models).
    """
    plain = POLICIES[numerics]
    if plain.sqnr_min_db is None or plain.sqnr_min_db >= _CARRIED_DB or numerics == Numerics.INT8_DYNAMIC:
        return plain
    return _bounds(numerics, _CARRIED_DB, plain.top1_min or 0.95, "quantized like the source: rounding differs")


_CARRIED_DB = 25


def compare(  # noqa: PLR0913 what was declared of outputs comes with them
    reference: Path,
    results: dict[str, Path],
    policy: ParityPolicy,
    *,
    inputs: InputsKind,
    reference_runtime: str,
    dropped: Collection[str] = (),
    dtypes: Mapping[str, DType] | None = None,
) -> ParityReport:
    """Compare result outputs with reference outputs and judge them.

    Args:
        reference: Folder of the source's outputs, one .npz per sample.
        results: Runtime and variant -> folder of the result's outputs, in the source's names.
        policy: The gate.
        inputs: Where the samples came from.
        reference_runtime: Who ran the source.
        dropped: Outputs of the source that the results are not to have.
        dtypes: Outputs that are declared to be of another element type than the source's.

    Raises:
        NothingCompared: There are no samples, no outputs, no elements, or the source's own outputs are not finite or
            zero throughout.
        EffectError: The result's outputs have other names, shapes or element types than the source's.
    """
    choice = _choice(reference, dropped, dtypes or {})
    measured = tuple(
        item
        for runtime, folder in results.items()
        for item in _compare_one(reference, folder, runtime, choice, _Gate(policy, inputs))
    )
    if not measured:
        raise NothingCompared("no output was compared, so nothing is proved", hint="give real inputs: --test DATA")
    failed = any(item.failures for item in measured)
    unproved = dict.fromkeys(f"{item.output} {item.unproved}" for item in measured if item.unproved)
    return ParityReport(
        policy=policy,
        inputs=inputs,
        reference_runtime=reference_runtime,
        outputs=measured,
        passed=not failed and not unproved,
        unproved="" if failed else "; ".join(unproved),
    )


class _Choice(NamedTuple):
    """Outputs that are left out, declared types, what the source gives, and parts that are judged by themselves."""

    dropped: Collection[str]
    dtypes: Mapping[str, DType]
    profiles: Mapping[str, OutputProfile]
    parts: Mapping[str, tuple[Part, ...]]

    def profile(self, name: str) -> OutputProfile | None:
        """Of an output or part."""
        return self.profiles.get(name)


class _Gate(NamedTuple):
    """Bounds, and where the inputs came from."""

    policy: ParityPolicy
    inputs: InputsKind


def _choice(reference: Path, dropped: Collection[str], dtypes: Mapping[str, DType]) -> _Choice:
    """A classifier's rows are one thing, whatever their sizes; any other output may hold several."""
    rows: set[str] = set()

    def kept() -> Iterator[dict[str, "Array"]]:
        for given in SampleFolder(reference):
            source = {name: array for name, array in given.items() if name not in dropped}
            for name, array in source.items():
                _check_finite(name, array)
            rows.update(name for name, array in source.items() if is_classifier(array))
            yield source

    profiles = profiles_of(kept())
    parts = quiet_parts({name: profile for name, profile in profiles.items() if name not in rows})
    of_parts = {f"{name}{part}": profiles[name].of(part) for name, some in parts.items() for part in some}
    return _Choice(dropped, dtypes, profiles | of_parts, parts)


def _compare_one(reference: Path, folder: Path, runtime: str, choice: _Choice, gate: _Gate) -> Iterator[OutputParity]:
    tallies: dict[str, Tally] = {}
    sources, results = SampleFolder(reference), SampleFolder(folder)
    if len(sources) != len(results) or not len(sources):
        message = f"{runtime} gave outputs for {len(results)} samples, the source for {len(sources)}"
        raise NothingCompared(message, hint="give more inputs: --test DATA")
    for given, result in zip(sources, results, strict=True):
        source = {name: array for name, array in given.items() if name not in choice.dropped}
        _check_same_outputs(source, result, runtime, choice.dtypes)
        found = with_quiet_parts(result, choice.parts)
        for name, array in with_quiet_parts(source, choice.parts).items():
            tallies.setdefault(name, Tally(choice.profile(name))).add(array, found[name])
    _check_reference(tallies)
    for name, tally in tallies.items():
        yield _judged(name, runtime, tally, gate)


def _check_finite(name: str, array: "Array") -> None:
    import numpy as np

    if not np.isfinite(array.astype(np.float64, copy=False)).all():
        raise NothingCompared(
            f"the source model itself gives NaN or infinity in {name}",
            hint="give inputs that the model is made for: --test DATA",
        )


def _check_same_outputs(
    source: dict[str, "Array"], result: dict[str, "Array"], runtime: str, dtypes: Mapping[str, DType]
) -> None:
    wanted = {name: (array.shape, dtypes.get(name, array.dtype.name)) for name, array in source.items()}
    found = {name: (array.shape, array.dtype.name) for name, array in result.items()}
    if {name: shape for name, (shape, _) in wanted.items()} != {name: shape for name, (shape, _) in found.items()}:
        raise EffectError(
            f"{runtime} gives outputs {_shapes(found)}, the source gives {_shapes(wanted)}",
            hint="report it to the plugin's authors",
        )
    if wanted != found:
        raise EffectError(
            f"{runtime} gives outputs of another element type, which nothing declares: {_dtypes(found)}; the source "
            f"gives {_dtypes(wanted)}",
            hint="convert without changing types, or bring the receipt that says so",
        )


def _shapes(outputs: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{name}[{'x'.join(map(str, shape))}]" for name, (shape, _) in outputs.items())


def _dtypes(outputs: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{name}: {dtype}" for name, (_, dtype) in outputs.items())


def _check_reference(tallies: Mapping[str, Tally]) -> None:
    empty = [name for name, tally in tallies.items() if not tally.elements]
    if empty:
        raise NothingCompared(f"output {', '.join(empty)} has no elements", hint="give real inputs: --test DATA")
    if tallies and not any(tally.source_power for tally in tallies.values()):
        raise NothingCompared(
            "the source model's outputs are zero on every sample, so any broken result would look right",
            hint="give inputs that the model answers to: --test DATA",
        )


def _judged(name: str, runtime: str, tally: Tally, gate: _Gate) -> OutputParity:
    policy, noise = gate.policy, 10 ** (-(gate.policy.sqnr_min_db or _NO_NOISE_DB) / 10)
    rows, agreeing = tally.clear_rows(noise)
    single = min(tally.worst_sample(), tally.worst_component())
    stands_out = single.name and not tally.counted  # one other id, of two that were near, is all of its sample
    measured = OutputParity(
        output=name,
        runtime=runtime,
        samples=tally.samples,
        elements=tally.elements,
        max_abs=tally.max_abs,
        mean_abs=tally.sum_abs / tally.elements,
        relative=tally.relative,
        cosine=tally.cosine,
        sqnr_db=tally.sqnr_db,
        top1=agreeing / rows if rows else None,
        top1_rows=rows,
        centred_sqnr_db=tally.centred_sqnr_db if tally.movement else None,
        centred_cosine=tally.centred_cosine if tally.movement else None,
        unequal=tally.unequal / tally.counted if tally.counted else None,
        worst_db=single.sqnr_db if stands_out else None,
        worst_at=single.name if stands_out else "",
    )
    if not tally.finite:
        return msgspec.structs.replace(measured, failures=("the result holds NaN or infinity",))
    still = tally.movement < (policy.movement_min or 0)
    centred = () if still or gate.inputs == "random" else tuple(_centred_failures(measured, policy))
    failures = (*_failures(measured, policy, agreeing), *centred, *_unequal(tally, policy), *_outside(tally, policy))
    unproved = _unproved(tally, gate, failed=bool(failures))
    return msgspec.structs.replace(measured, failures=() if unproved else failures, unproved=unproved)


_NO_NOISE_DB = 80.0  # float32's gate of 1e-4


def _unproved(tally: Tally, gate: _Gate, *, failed: bool) -> str:
    """Why an output of the source is no evidence for this precision, where it is not.

    One whose values all lie near zero, as scores do where nothing occurs, is none where the result says so too; and one
    that moves by less than the precision shows is none, as a constant would do as well. What never moves at all is a
    constant of the model.
    """
    least = gate.policy.movement_min
    if least is None or gate.inputs == "random" or tally.samples < 2:  # noqa: PLR2004 one sample does not move
        return ""
    if (
        failed
        and tally.low >= 0
        and tally.high <= _NOTHING
        and max(tally.result_high, -tally.result_low) <= 5 * _NOTHING
    ):
        return f"lies between {tally.low:.2g} and {tally.high:.2g} on all samples: nothing occurs in them"
    if _STILL < tally.movement < least:
        return f"moves by {tally.movement:.2%} of its size, less than this precision shows ({least:.2%})"
    return ""


_NOTHING = 0.01  # of a score, whose range ends at 1
_STILL = 1e-6  # of the largest value: float32's rounding


def _failures(measured: OutputParity, policy: ParityPolicy, agreeing: int) -> Iterator[str]:
    if policy.relative_max is not None and measured.relative > policy.relative_max:
        yield f"relative error {measured.relative:.3g} > {policy.relative_max:g}"
    if policy.cosine_min is not None and measured.cosine < policy.cosine_min:
        yield f"cosine {measured.cosine:.6f} < {policy.cosine_min:g}"
    if policy.sqnr_min_db is not None and measured.sqnr_db < policy.sqnr_min_db:
        yield f"SQNR {measured.sqnr_db:.1f} dB < {policy.sqnr_min_db:g} dB"
    if policy.single_min_db is not None and measured.worst_db is not None and measured.worst_db < policy.single_min_db:
        yield f"{measured.worst_at}: SQNR {measured.worst_db:.1f} dB < {policy.single_min_db:g} dB"
    if policy.top1_min is not None and measured.top1 is not None:
        rows = measured.top1_rows
        if binomial_tail(agreeing, rows, policy.top1_min) < CHANCE:
            yield f"top-1 agreement {measured.top1:.1%} < {policy.top1_min:.0%} of {rows} clear rows"


_ROUNDINGS = 4
"""Of the precision, by which a result may leave the range of the source's last operator: it is no fault to compute that
operator in float from rounded numbers, or its range by statistics."""


def _outside(tally: Tally, policy: ParityPolicy) -> Iterator[str]:
    """What the source's last operator never gives: by more than this precision rounds."""
    if policy.movement_min is None or not tally.max_source:
        return
    low, high = tally.guaranteed
    rounding = _ROUNDINGS * policy.movement_min * tally.max_source
    if tally.result_low < low - rounding or tally.result_high > high + rounding:
        span = f"{low:g} to {high:g}" if math.isfinite(high) else "never below zero"
        found = f"lies between {tally.result_low:.3g} and {tally.result_high:.3g}"
        yield f"{found}; the source's last operator gives {span}"
    if tally.probabilities and tally.row_sum_off > max(_ROW_SUM_OFF, policy.movement_min * tally.classes / 2):
        yield f"probabilities of a row sum to one within {tally.row_sum_off:.3g} only"


_ROW_SUM_OFF = 0.125
"""What a range that was chosen by statistics may cut off a softmax's largest value."""


def _unequal(tally: Tally, policy: ParityPolicy) -> Iterator[str]:
    """Integers may be ids, whose distance means nothing: float32 gives the same ones, and flags agree as classes do.

    Amounts that were rounded to integers differ by one here and there in a quantized result: told, not refused.
    """
    if policy.top1_min is None:
        least = _SAME_INTEGERS
    elif tally.flags:
        least = policy.top1_min
    else:
        return
    if binomial_tail(tally.counted - tally.unequal, tally.counted, least) < CHANCE:
        what = "flags" if tally.flags else "integers"
        yield f"{tally.unequal / tally.counted:.1%} of its {what} are not the source's; at most {1 - least:.0%} may be"


_SAME_INTEGERS = 0.99
"""Of a float32 result: the rest are ties that rounding decides."""


def _centred_failures(measured: OutputParity, policy: ParityPolicy) -> Iterator[str]:
    """With the mean removed; not judged on random inputs, where an output may move little beside its noise."""
    least, found = policy.centred_min_db, measured.centred_sqnr_db
    if least is not None and found is not None and found < least:
        yield f"SQNR without the mean {found:.1f} dB < {least:g} dB"


CHANCE = 1e-3
"""Of a verdict on counted rows to be wrong where the share is just kept."""


def binomial_tail(hits: int, rows: int, share: float) -> float:
    """P[X <= hits] for X of a binomial distribution: as few or fewer by chance (Clopper and Pearson, 1934)."""
    if hits >= rows * share:  # no fewer than expected
        return 1.0
    log = math.lgamma
    return sum(
        math.exp(log(rows + 1) - log(k + 1) - log(rows - k + 1) + k * math.log(share) + (rows - k) * math.log1p(-share))
        for k in range(hits, max(-1, hits - _TERMS), -1)
    )


_TERMS = 2000  # below, each is smaller than the one before; the rest is far below `CHANCE`


def describe_failures(report: ParityReport) -> str:
    """The bounds that do not hold, in one line."""
    said = [f"{o.output} on {o.runtime}: {', '.join(o.failures)}" for o in report.outputs if o.failures]
    return "; ".join([*said, *filter(None, [report.accuracy.failure if report.accuracy else ""])])


def no_evidence(report: ParityReport, option: str = "--test DATA") -> NoEvidence:
    """The error of a measurement that proves nothing: what the source does, and what would be evidence."""
    return NoEvidence(
        f"no bound is broken, and nothing is proved: {report.unproved}",
        hint=f"give samples that the model answers to, each otherwise, besides these: {option}",
    )


def accuracy(labels: Sequence[int], source: Path, result: Path, policy: ParityPolicy | None = None) -> Accuracy:
    """Top-1 accuracy of source and result on labelled samples; the first output is the classifier's.

    Args:
        labels: Class of each row.
        source: Folder of the source's outputs.
        result: Folder of the result's.
        policy: Of the rows that the source has right, the result is to keep the share `top1_min`.
    """
    import numpy as np

    before, after = _hits(labels, source), _hits(labels, result)
    right, kept = int(before.sum()), int((before & after).sum())
    least, failure = policy.top1_min if policy else None, ""
    if least is not None and binomial_tail(kept, right, least) < CHANCE:
        failure = (
            f"accuracy {before.mean():.1%} to {after.mean():.1%}: of {right} labelled rows that the source has right "
            f"the result has {kept}, less than {least:.0%}"
        )
    rows = int(np.size(before))
    return Accuracy(
        samples=rows, source=float(before.mean()), result=float(after.mean()), lost=right - kept, failure=failure
    )


def _hits(labels: Sequence[int], folder: Path) -> "npt.NDArray[np.bool_]":
    import numpy as np

    classes = [
        np.asarray(next(iter(arrays.values()))).reshape(-1, next(iter(arrays.values())).shape[-1]).argmax(axis=1)
        for arrays in SampleFolder(folder)
    ]
    found = np.concatenate(classes)[: len(labels)]
    hits: npt.NDArray[np.bool_] = found == np.asarray(labels[: found.size])
    return hits
