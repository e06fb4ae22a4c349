"""The edges: from a float32 ONNX file to each precision, in order of preference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hub.spec import (
    PREPARED,
    YES,
    Accepts,
    ConvertJob,
    ConvertOptions,
    Edge,
    Gives,
    ModelSummary,
    Numerics,
    StepOutput,
    Support,
    UnsupportedModel,
    Verdict,
)
from hub_onnxruntime.files import check, external_tensors, save
from hub_onnxruntime.large import write_large
from hub_onnxruntime.numerics import find_numerics
from hub_onnxruntime.operators import RUNTIME_FORM
from hub_onnxruntime.quantize import static
from hub_onnxruntime.quantize.cpu import Signedness, this_cpu
from hub_onnxruntime.quantize.narrow import (
    CONVOLUTIONS,
    MATRICES,
    RECURRENT,
    Made,
    dynamic_int8,
    float16,
    narrow_weights,
    raised_opset,
)
from hub_onnxruntime.quantize.placement import PRODUCTS, products_of
from hub_onnxruntime.quantize.qdq import Scheme
from hub_onnxruntime.quantize.source import Source, open_source
from hub_onnxruntime.quantize.weights import Form

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_NAMED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One edge's way of quantizing.

    Attributes:
        name: The edge is `onnx.<name>`.
        title: For the plan.
        numerics: What it gives.
        cost: Order of preference among edges with the same target.
        make: The way.
        form: Of the result: empty for standard ONNX.
        calibrated: Whether it reads calibration samples.
        refuses: Operator -> why the plan cannot take a model with it.
        needs: Operators that it is there for.
    """

    name: str
    title: str
    numerics: Numerics
    cost: float
    make: Callable[[Plan, ConvertJob], Made]
    form: str = ""
    calibrated: bool = False
    refuses: Mapping[str, str]
    needs: tuple[str, ...] = ()


def tool() -> str:
    """What applied a recipe."""
    return f"hub-onnxruntime on onnxruntime {version('onnxruntime')}"


def _open_calibrated(job: ConvertJob) -> Source:
    source = open_source(job.source.path, job.calibration)
    if not products_of(source.model):
        found = ", ".join(sorted({node.op_type for node in source.model.graph.node})[:_NAMED])
        raise UnsupportedModel(
            f"nothing in the model can be quantized: it has no {', '.join(sorted(PRODUCTS))}; it has {found}",
            hint="Use --precision fp32 or fp16.",
        )
    source.watch()
    return source


def _fitting() -> tuple[Scheme, list[str]]:
    """The scheme that this machine's processor computes exactly and fastest."""
    signedness, seen = this_cpu()
    return Scheme.of(signedness), [f"{signedness.value}: what {seen} computes exactly and fastest"]


def _symmetric() -> tuple[Scheme, list[str]]:
    return Scheme.of(Signedness.S8S8), ["s8s8, symmetric: the form that GPUs and ARM processors take"]


def _whole(choose: Callable[[], tuple[Scheme, list[str]]]) -> Callable[[Plan, ConvertJob], Made]:
    def make(plan: Plan, job: ConvertJob) -> Made:
        source = _open_calibrated(job)
        scheme, said = choose()
        tried, notes = static.best(source, scheme)
        recipe = static.record(source, tried, plan.numerics, tool())
        return Made(tried.model, recipe, [*source.notes, *said, *notes, f"took {tried.words}"])

    return make


def _mixed(choose: Callable[[], tuple[Scheme, list[str]]]) -> Callable[[Plan, ConvertJob], Made]:
    def make(plan: Plan, job: ConvertJob) -> Made:
        source = _open_calibrated(job)
        scheme, said = choose()
        tried, notes = static.best(source, scheme)
        others = [node.name for node in source.model.graph.node if node.op_type in _RECURRENT]
        if tried.sqnr_db < static.GOAL_DB or not others:
            tried, more = static.mixed(source, tried)
            notes += more
        if others:
            notes.append(f"recurrent layers stay in float: {', '.join(others[:_NAMED])}")
        recipe = static.record(source, tried, plan.numerics, tool(), others)
        return Made(tried.model, recipe, [*source.notes, *said, *notes])

    return make


def _dynamic(operators: tuple[str, ...]) -> Callable[[Plan, ConvertJob], Made]:
    return lambda _, job: dynamic_int8(job.source.path, operators, tool())


def _narrow(*forms: Form) -> Callable[[Plan, ConvertJob], Made]:
    return lambda plan, job: narrow_weights(job.source.path, job.scratch, forms, plan.numerics, tool())


def _half(_: Plan, job: ConvertJob) -> Made:
    return float16(job.source.path, tool())


def _wide(plan: Plan, job: ConvertJob) -> Made:
    source = _open_calibrated(job)
    raised, notes = raised_opset(source.model)
    source = replace(source, model=static.typed_copy(raised))
    tried, more = static.best(source, Scheme("int16", "int8"))
    return Made(tried.model, static.record(source, tried, plan.numerics, tool()), [*source.notes, *notes, *more])


_NO_RECURRENT = dict.fromkeys(
    sorted(_RECURRENT), "recurrent layers have no static int8 form in ONNX: int8-mixed keeps them"
)
PLANS: tuple[Plan, ...] = (
    Plan(
        name="int8",
        title="static int8",
        numerics=Numerics.INT8,
        cost=1.0,
        make=_whole(_fitting),
        calibrated=True,
        refuses=_NO_RECURRENT,
    ),
    Plan(
        name="int8-symmetric",
        title="static int8, symmetric",
        numerics=Numerics.INT8,
        cost=3.0,
        make=_whole(_symmetric),
        calibrated=True,
        refuses=_NO_RECURRENT,
    ),
    Plan(
        name="int8-mixed",
        title="static int8, fragile layers in float",
        numerics=Numerics.INT8_MIXED,
        cost=1.5,
        make=_mixed(_fitting),
        calibrated=True,
        refuses={},
    ),
    Plan(
        name="int16x8",
        title="static int16 activations, int8 weights",
        numerics=Numerics.INT16X8,
        cost=1.0,
        make=_wide,
        calibrated=True,
        refuses={},
    ),
    Plan(
        name="int8-dynamic",
        title="dynamic int8, matrices",
        numerics=Numerics.INT8_DYNAMIC,
        cost=1.0,
        make=_dynamic(MATRICES),
        refuses={},
    ),
    Plan(
        name="int8-dynamic-conv",
        title="dynamic int8, convolutions too",
        numerics=Numerics.INT8_DYNAMIC,
        cost=2.0,
        make=_dynamic(CONVOLUTIONS),
        refuses={},
    ),
    Plan(
        name="int8-dynamic-lstm",
        title="dynamic int8, LSTM too",
        numerics=Numerics.INT8_DYNAMIC,
        cost=1.0,
        make=_dynamic(RECURRENT),
        form=RUNTIME_FORM,
        needs=("LSTM",),
        refuses={},
    ),
    Plan(
        name="int8-weights",
        title="int8 weights",
        numerics=Numerics.INT8_WEIGHTS,
        cost=1.0,
        make=_narrow(Form(8, 64, symmetric=True), Form(8, 64, symmetric=False)),
        refuses={},
    ),
    Plan(
        name="int8-weights-matrices",
        title="int8 weights, convolutions in float",
        numerics=Numerics.INT8_WEIGHTS,
        cost=2.0,
        make=_narrow(Form(8, 64, symmetric=True, convolutions=False)),
        refuses={},
    ),
    Plan(
        name="int4-weights",
        title="int4 weights in blocks",
        numerics=Numerics.INT4_WEIGHTS,
        cost=1.0,
        make=_narrow(
            Form(4, 32, symmetric=False),
            Form(4, 32, symmetric=True),
            Form(4, 64, symmetric=False),
            Form(4, 128, symmetric=False),
        ),
        refuses={},
    ),
    Plan(
        name="int4-weights-matrices",
        title="int4 weights in blocks, convolutions in float",
        numerics=Numerics.INT4_WEIGHTS,
        cost=2.0,
        make=_narrow(Form(4, 32, symmetric=False, convolutions=False)),
        refuses={},
    ),
    Plan(name="fp16", title="float16", numerics=Numerics.FP16, cost=1.0, make=_half, refuses={}),
)


def run_plan(plan: Plan, job: ConvertJob) -> StepOutput:
    """Quantizes.

    Raises:
        HubError: The model cannot be read or run, is quantized already, has nothing to quantize, or calibration
            samples do not fit; or the result is not what the edge promises.
    """
    made = plan.make(plan, job)
    _check_promise(made.model, plan)
    check(made.model, Path(job.scratch))
    if external_tensors(made.model):
        write_large(made.model, Path(job.scratch), Path(job.output))
    else:
        save(made.model, Path(job.output))
    return StepOutput(notes=tuple(made.notes), recipe=made.recipe)


def _check_promise(model: Any, plan: Plan) -> None:
    """Refuses a result that is not what its edge promises, with the layers that make the difference."""
    found = find_numerics(static.typed_copy(model))
    if found.numerics != plan.numerics:
        left = ", ".join(found.left_float[:_NAMED]) or "none"
        raise UnsupportedModel(
            f"the result is {found.numerics.value}, not {plan.numerics.value}; layers in float: {left}",
            hint=f"Ask for what it is: --precision {found.numerics.value}",
        )


def takes(plan: Plan, summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses what is quantized already, and operators that the plan has no form for."""
    del options
    if summary.state.numerics != Numerics.FP32:
        reason = f"the model is {summary.state.numerics.value}, not fp32"
        return Verdict(support=Support.NEVER, reason=reason, hint="Start from the float model it was made from.")
    found = sorted(set(plan.refuses) & set(summary.operators))
    if found:
        return Verdict(support=Support.NOTYET, reason=f"{', '.join(found)}: {plan.refuses[found[0]]}")
    if not set(plan.needs) <= set(summary.operators):
        return Verdict(support=Support.NEVER, reason=f"the model has no {', '.join(plan.needs)}")
    return YES


def _edge(plan: Plan) -> Edge:
    return Edge(
        id=f"onnx.{plan.name}",
        accepts=(Accepts(format="onnx", form=PREPARED),),
        gives=Gives(format="onnx", numerics=plan.numerics, form=plan.form),
        convert=functools.partial(run_plan, plan),
        check=functools.partial(takes, plan),
        lossy=True,
        needs_calibration=plan.calibrated,
        keeps_dynamic=True,
        requires=("onnx>=1.17", "onnxruntime>=1.20"),
        process="onnx",
        cost=plan.cost,
        title=plan.title,
        formerly=(f"onnx.{plan.name}-open",),
    )


QUANTIZING = tuple(map(_edge, PLANS))
"""ONNX float32 -> ONNX in each precision."""
