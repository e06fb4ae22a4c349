"""The parity gate: outputs of a result against outputs of the source, sample by sample, output by output."""

import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hub.spec import (
    SQNR_CAP_DB,
    Accuracy,
    EffectError,
    InputsKind,
    NothingCompared,
    Numerics,
    OutputParity,
    ParityPolicy,
    ParityReport,
    Part,
    SampleFolder,
    parts_of,
    with_parts,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

_NOISE = "noise power at most {:.1%} of signal power"


def _bounds(numerics: Numerics, sqnr: float, top1: float, why: str) -> ParityPolicy:
    """A quantized gate. With noise uncorrelated to the signal, SQNR s gives cosine 1/sqrt(1 + 10^(-s/10))."""
    noise = 10 ** (-sqnr / 10)
    return ParityPolicy(
        numerics=numerics,
        sqnr_min_db=sqnr,
        cosine_min=math.floor(1e4 / math.sqrt(1 + noise)) / 1e4,  # rounding up would ask fp16 for a cosine of 1
        top1_min=top1,
        source=f"{_NOISE.format(noise)}; {why}",
    )


_FLOAT_WHY = "float32 rounds at 6e-8; reordered sums of deep networks measured 1e-7 to 3e-5, wrong ones above 1e-2"
POLICIES: dict[Numerics, ParityPolicy] = {
    Numerics.FP32: ParityPolicy(numerics=Numerics.FP32, relative_max=1e-4, source=_FLOAT_WHY),
    Numerics.FP16: _bounds(
        Numerics.FP16, 40, 0.99, "float16 rounds at 5e-4 (66 dB a layer); sound ones measured >= 44 dB"
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


class _Sums(msgspec.Struct, kw_only=True):
    """Running sums over samples, in float64."""

    samples: int = 0
    elements: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    max_source: float = 0.0
    dot: float = 0.0
    source_power: float = 0.0
    result_power: float = 0.0
    error_power: float = 0.0
    finite: bool = True
    rows: int = 0
    agreeing: int = 0

    def add(self, source: "Array", result: "Array") -> None:
        """Add one sample."""
        import numpy as np

        a, b = source.astype(np.float64).ravel(), result.astype(np.float64).ravel()
        self.samples += 1
        self.elements += a.size
        self.source_power += float(a @ a)
        self.finite &= bool(np.isfinite(b).all())
        if not self.finite or not a.size:
            return
        error = np.abs(a - b)
        self.max_abs = max(self.max_abs, float(error.max()))
        self.max_source = max(self.max_source, float(np.abs(a).max()))
        self.sum_abs += float(error.sum())
        self.dot += float(a @ b)
        self.result_power += float(b @ b)
        self.error_power += float(error @ error)

    def add_classes(self, source: "Array", result: "Array") -> None:
        """Add the arg-max over the last axis, for every row of one sample."""
        self.rows += source.size // source.shape[-1]
        self.agreeing += int((source.argmax(axis=-1) == result.argmax(axis=-1)).sum())

    @property
    def cosine(self) -> float:
        """Cosine; 1 when both are all zero, 0 when one is, or holds NaN."""
        if not self.finite:
            return 0.0
        norm = math.sqrt(self.source_power * self.result_power)
        return min(1.0, self.dot / norm) if norm else float(self.error_power == 0)

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB: of NaN and infinity the worst that there is."""
        if not self.finite:
            return -SQNR_CAP_DB
        if not self.error_power:
            return SQNR_CAP_DB
        if not self.source_power:
            return -SQNR_CAP_DB
        return max(-SQNR_CAP_DB, min(SQNR_CAP_DB, 10 * math.log10(self.source_power / self.error_power)))

    @property
    def relative(self) -> float:
        """Largest error over largest source value; the error itself where the source is all zero."""
        return self.max_abs / self.max_source if self.max_source else self.max_abs


def is_classifier(source: Any) -> bool:
    """Whether an array holds a classifier's probabilities: [batch, ..., classes >= 2], not negative, summing to one."""
    import numpy as np

    if source.ndim < 2 or source.shape[-1] < 2 or not np.issubdtype(source.dtype, np.floating):  # noqa: PLR2004 as above
        return False
    return bool((source >= 0).all() and np.allclose(source.sum(axis=-1), 1, atol=1e-3))


def compare(
    reference: Path,
    results: dict[str, Path],
    policy: ParityPolicy,
    *,
    inputs: InputsKind,
    reference_runtime: str,
    dropped: Collection[str] = (),
) -> ParityReport:
    """Compare result outputs with reference outputs and judge them.

    Args:
        reference: Folder of the source's outputs, one .npz per sample.
        results: Runtime and variant -> folder of the result's outputs, in the source's names.
        policy: The gate.
        inputs: Where the samples came from.
        reference_runtime: Who ran the source.
        dropped: Outputs of the source that the results are not to have.

    Raises:
        NothingCompared: There are no samples, no outputs, no elements, or the source's own outputs are not finite or
            zero throughout.
        EffectError: The result's outputs have other names or shapes than the source's.
    """
    choice = _Choice(dropped, parts_of(_judged_in_parts(reference, dropped)))
    measured = tuple(
        item for runtime, folder in results.items() for item in _compare_one(reference, folder, runtime, policy, choice)
    )
    if not measured:
        raise NothingCompared("no output was compared, so nothing is proved", hint="give real inputs: --test DATA")
    return ParityReport(
        policy=policy,
        inputs=inputs,
        reference_runtime=reference_runtime,
        outputs=measured,
        passed=not any(item.failures for item in measured),
    )


class _Choice(NamedTuple):
    """Outputs that are left out, and outputs of which a part is judged by itself too."""

    dropped: Collection[str]
    parts: dict[str, Part]


def _judged_in_parts(reference: Path, dropped: Collection[str]) -> Iterator[dict[str, "Array"]]:
    """The outputs that may hold two things; a classifier's rows are one, whatever their size."""
    for given in SampleFolder(reference):
        yield {name: array for name, array in given.items() if name not in dropped and not is_classifier(array)}


def _compare_one(
    reference: Path, folder: Path, runtime: str, policy: ParityPolicy, choice: _Choice
) -> Iterator[OutputParity]:
    sums: dict[str, _Sums] = {}
    sources, results = SampleFolder(reference), SampleFolder(folder)
    if len(sources) != len(results) or not len(sources):
        message = f"{runtime} gave outputs for {len(results)} samples, the source for {len(sources)}"
        raise NothingCompared(message, hint="give more inputs: --test DATA")
    for given, result in zip(sources, results, strict=True):
        source = {name: array for name, array in given.items() if name not in choice.dropped}
        _check_same_outputs(source, result, runtime)
        _accumulate(sums, with_parts(source, choice.parts), with_parts(result, choice.parts))
    _check_reference(sums)
    for name, total in sums.items():
        yield _judged(name, runtime, total, policy)


def _accumulate(sums: dict[str, _Sums], source: dict[str, "Array"], result: dict[str, "Array"]) -> None:
    import numpy as np

    for name, array in source.items():
        if not np.isfinite(array.astype(np.float64)).all():
            raise NothingCompared(
                f"the source model itself gives NaN or infinity in {name}",
                hint="give inputs that the model is made for: --test DATA",
            )
        total = sums.setdefault(name, _Sums())
        total.add(array, result[name])
        if is_classifier(array):
            total.add_classes(array, result[name])


def _check_same_outputs(source: dict[str, "Array"], result: dict[str, "Array"], runtime: str) -> None:
    wanted = {name: array.shape for name, array in source.items()}
    found = {name: array.shape for name, array in result.items()}
    if wanted != found:
        raise EffectError(
            f"{runtime} gives outputs {_shapes(found)}, the source gives {_shapes(wanted)}",
            hint="report it to the plugin's authors",
        )


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name}[{'x'.join(map(str, shape))}]" for name, shape in shapes.items())


def _check_reference(sums: dict[str, _Sums]) -> None:
    empty = [name for name, total in sums.items() if not total.elements]
    if empty:
        raise NothingCompared(f"output {', '.join(empty)} has no elements", hint="give real inputs: --test DATA")
    if sums and not any(total.source_power for total in sums.values()):
        raise NothingCompared(
            "the source model's outputs are zero on every sample, so any broken result would look right",
            hint="give inputs that the model answers to: --test DATA",
        )


def _judged(name: str, runtime: str, total: _Sums, policy: ParityPolicy) -> OutputParity:
    measured = OutputParity(
        output=name,
        runtime=runtime,
        samples=total.samples,
        elements=total.elements,
        max_abs=total.max_abs,
        mean_abs=total.sum_abs / total.elements,
        relative=total.relative,
        cosine=total.cosine,
        sqnr_db=total.sqnr_db,
        top1=total.agreeing / total.rows if total.rows else None,
    )
    failures = (
        ("the result holds NaN or infinity",) if not total.finite else tuple(_failures(measured, policy, total.rows))
    )
    return msgspec.structs.replace(measured, failures=failures)


def _too_few_agree(share: float, rows: int, least: float) -> bool:
    """Judge top-1 only from enough rows that one disagreement stays inside the bound: 20 for 95 %."""
    return share < least and rows * (1 - least) >= 1 - 1e-9


def _failures(measured: OutputParity, policy: ParityPolicy, rows: int) -> Iterator[str]:
    if policy.relative_max is not None and measured.relative > policy.relative_max:
        yield f"relative error {measured.relative:.3g} > {policy.relative_max:g}"
    if policy.cosine_min is not None and measured.cosine < policy.cosine_min:
        yield f"cosine {measured.cosine:.6f} < {policy.cosine_min:g}"
    if policy.sqnr_min_db is not None and measured.sqnr_db < policy.sqnr_min_db:
        yield f"SQNR {measured.sqnr_db:.1f} dB < {policy.sqnr_min_db:g} dB"
    if (
        policy.top1_min is not None
        and measured.top1 is not None
        and _too_few_agree(measured.top1, rows, policy.top1_min)
    ):
        yield f"top-1 agreement {measured.top1:.1%} < {policy.top1_min:.0%}"


def describe_failures(report: ParityReport) -> str:
    """The bounds that do not hold, in one line."""
    return "; ".join(f"{o.output} on {o.runtime}: {', '.join(o.failures)}" for o in report.outputs if o.failures)


def accuracy(labels: Iterable[int], source: Path, result: Path) -> Accuracy:
    """Top-1 accuracy of source and result on labelled samples; the first output is the classifier's."""
    wanted = list(labels)
    return Accuracy(samples=len(wanted), source=_hits(wanted, source), result=_hits(wanted, result))


def _hits(labels: list[int], folder: Path) -> float:
    import numpy as np

    classes = [
        np.asarray(next(iter(arrays.values()))).reshape(-1, next(iter(arrays.values())).shape[-1]).argmax(axis=1)
        for arrays in SampleFolder(folder)
    ]
    found = np.concatenate(classes)
    return float((found == np.asarray(labels[: found.size])).mean())
