"""What the planner sees of the precision ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hub.spec import (
    PREPARED,
    Accepts,
    ConvertJob,
    ConvertOptions,
    Edge,
    Gives,
    ModelSummary,
    Numerics,
    StepError,
    StepOutput,
    Support,
    Verdict,
    takes_unblocked,
)
from hub_onnxquant.half import HalfType
from hub_tensorrt.precision.blocks import int4_weights
from hub_tensorrt.precision.halves import half_floats
from hub_tensorrt.precision.integers import Precise, integers
from hub_tensorrt.precision.rules import check_rules, words

FORM = "tensorrt"
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def takes_without_recurrence(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses recurrent layers too."""
    found = sorted(_RECURRENT & set(summary.operators))
    reason = f"{', '.join(found)}: recurrent layers have no static int8 form in ONNX: int8-mixed keeps them"
    return Verdict(support=Support.NOTYET, reason=reason) if found else takes_unblocked(summary, options)


def write_precise(made: Precise, target: Path) -> StepOutput:
    """Checks a result against ONNX's rules and TensorRT's, and writes it.

    Raises:
        StepError: It breaks one: a defect of this plugin.
    """
    import onnx

    onnx.checker.check_model(made.model, full_check=True)
    findings = check_rules(made.model)
    if findings:
        raise StepError(f"the result breaks rules of TensorRT: {words(findings)}")
    target.write_bytes(made.model.SerializeToString(deterministic=True))
    return StepOutput(notes=tuple(made.notes), recipe=made.recipe)


def _edge(  # noqa: PLR0913 - a row of the table below
    name: str,
    title: str,
    numerics: Numerics,
    make: Callable[[ConvertJob], Precise],
    *,
    cost: float = 1.0,
    calibrated: bool = False,
    check: Callable[[ModelSummary, ConvertOptions], Verdict] = takes_unblocked,
) -> Edge:
    """An edge of this module; `cost` orders those with the same target."""
    return Edge(
        id=f"tensorrt.{name}",
        accepts=(Accepts(format="onnx", form=PREPARED),),
        gives=Gives(format="onnx", numerics=numerics, form=FORM),
        convert=lambda job: write_precise(make(job), Path(job.output)),
        check=check,
        lossy=True,
        needs_calibration=calibrated or numerics.needs_calibration,
        keeps_dynamic=True,
        requires=("onnx>=1.17", "onnxruntime>=1.20"),
        process="onnx",
        cost=cost,
        title=title,
    )


def _both(name: str, title: str, numerics: Numerics, make: Callable[[str, str], Precise]) -> tuple[Edge, Edge]:
    """An edge that looks at samples, and behind it one that looks at random inputs where there are none."""
    seen = _edge(
        name,
        f"{title}, judged on samples",
        numerics,
        lambda job: make(job.source.path, job.calibration),
        calibrated=True,
    )
    unseen = _edge(
        f"{name}-unseen",
        f"{title}, judged on random inputs",
        numerics,
        lambda job: make(job.source.path, ""),
        cost=2.0,
    )
    return seen, unseen


EDGES: tuple[Edge, ...] = (
    _edge(
        "int8",
        "int8 as TensorRT takes it",
        Numerics.INT8,
        lambda job: integers(job.source.path, job.calibration, job.watch, Numerics.INT8),
        check=takes_without_recurrence,
    ),
    _edge(
        "int8-mixed",
        "int8 as TensorRT takes it, fragile layers in float",
        Numerics.INT8_MIXED,
        lambda job: integers(job.source.path, job.calibration, job.watch, Numerics.INT8_MIXED),
        cost=1.5,
    ),
    *_both("fp16", "float16", Numerics.FP16, lambda path, samples: half_floats(path, samples, HalfType.FLOAT16)),
    *_both("bf16", "bfloat16", Numerics.BF16, lambda path, samples: half_floats(path, samples, HalfType.BFLOAT16)),
    *_both("int4-weights", "int4 weights in blocks", Numerics.INT4_WEIGHTS, int4_weights),
    _edge(
        "fp8",
        "fp8 E4M3 as TensorRT takes it",
        Numerics.FP8,
        lambda job: integers(job.source.path, job.calibration, job.watch, Numerics.FP8),
    ),
)
"""Float ONNX to the precision ONNX that an engine is built of: format `onnx`, form `tensorrt`."""
