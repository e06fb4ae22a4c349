"""The edges: from a float32 ONNX file to each precision, in order of preference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
    Remark,
    SampleFolder,
    StepOutput,
    Support,
    UnsupportedModel,
    Verdict,
)
from hub_onnxgraph.graphs import raise_opset
from hub_onnxgraph.numerics import find_numerics
from hub_onnxquant import static
from hub_onnxquant.equalize import equalize
from hub_onnxquant.placement import PRODUCTS, products_of
from hub_onnxquant.qdq import Scheme, Signedness
from hub_onnxquant.source import QuantizerSource, typed_copy
from hub_onnxquant.weights import Form
from hub_onnxruntime.files import check as check_model
from hub_onnxruntime.files import external_tensors, save
from hub_onnxruntime.large import write_large
from hub_onnxruntime.operators import ONNXRUNTIME, RUNTIME_FORM
from hub_onnxruntime.quantize.cpu import this_cpu
from hub_onnxruntime.quantize.narrow import (
    BLOCKS_OPSET,
    CONVOLUTIONS,
    MATRICES,
    RECURRENT,
    Made,
    dynamic_int8,
    float16,
    narrow_weights,
    recipe_taken,
)
from hub_onnxruntime.quantize.source import open_source
from hub_quanttrials import GOAL_DB, check_claim, listed

EQUALIZED_FORM = "equalized"
"""Form of a float32 model whose convolutions pass on channels of one range."""

RECURRENT_OPERATORS = frozenset({"LSTM", "GRU", "RNN"})


def _open_calibrated(job: ConvertJob) -> QuantizerSource:
    source = open_source(job.source.path, job.calibration)
    if not products_of(source.model):
        found = listed(sorted({node.op_type for node in source.model.graph.node}))
        raise UnsupportedModel(
            f"nothing in the model can be quantized: it has no {', '.join(sorted(PRODUCTS))}; it has {found}",
            hint="Use --precision fp32 or fp16.",
        )
    source.watch()
    return source


def _fitting() -> tuple[Scheme, Remark]:
    """The scheme that this machine's processor computes exactly and fastest."""
    signedness, seen = this_cpu()
    text = f"{signedness.value}: what {seen} computes exactly and fastest"
    return Scheme.of(signedness), Remark("note", "scheme-for-processor", text)


def _symmetric() -> tuple[Scheme, Remark]:
    text = "s8s8, symmetric: the form that GPUs and ARM processors take"
    return Scheme.of(Signedness.S8S8), Remark("note", "scheme-symmetric", text)


def _whole(job: ConvertJob, choose: Callable[[], tuple[Scheme, Remark]]) -> Made:
    source = _open_calibrated(job)
    scheme, said = choose()
    trials = static.trials_of(source, job.watch)
    best = static.best(source, trials, scheme)
    recipe = static.record(source, best.recipe, Numerics.INT8)
    took = recipe_taken(f"{best.recipe}: {best.sqnr_db:.1f} dB")
    return Made(best.model, recipe, [*source.notes, said, *trials.notes, took])


def _mixed(job: ConvertJob) -> Made:
    source = _open_calibrated(job)
    scheme, said = _fitting()
    trials = static.trials_of(source, job.watch)
    best = static.best(source, trials, scheme)
    others = [node.name for node in source.model.graph.node if node.op_type in RECURRENT_OPERATORS]
    if best.sqnr_db < GOAL_DB or not others:
        best = static.mixed(source, trials, best)
    text = f"recurrent layers stay in float: {listed(others)}"
    left = [Remark("note", "recurrence-in-float", text)] if others else []
    recipe = static.record(source, best.recipe, Numerics.INT8_MIXED, others)
    took = recipe_taken(f"{best.recipe}: {best.sqnr_db:.1f} dB")
    return Made(best.model, recipe, [*source.notes, said, *trials.notes, took, *left])


def _wide(job: ConvertJob) -> Made:
    source = _open_calibrated(job)
    raised, notes = raise_opset(source.model, BLOCKS_OPSET)
    source = replace(source, model=typed_copy(raised))
    trials = static.trials_of(source, job.watch)
    best = static.best(source, trials, Scheme("int16", "int8"))
    recipe = static.record(source, best.recipe, Numerics.INT16X8)
    return Made(best.model, recipe, [*source.notes, *notes, *trials.notes])


def _dynamic(operators: tuple[str, ...]) -> Callable[[ConvertJob], Made]:
    return lambda job: dynamic_int8(job.source.path, operators)


def _narrow(*forms: Form) -> Callable[[ConvertJob], Made]:
    return lambda job: narrow_weights(job.source.path, job.scratch, forms)


def _written(job: ConvertJob, title: str, claimed: Numerics, make: Callable[[ConvertJob], Made]) -> StepOutput:
    """Makes a model, and writes it where it is what its edge promises.

    Raises:
        HubError: The model cannot be read or run, is quantized already, has nothing to quantize, or calibration samples
            do not fit; or the result is not what the edge promises.
    """
    made = make(job)
    found = find_numerics(typed_copy(made.model))
    check_claim(title, claimed, found.numerics, found.left_float)
    check_model(made.model, Path(job.scratch))
    if external_tensors(made.model):
        write_large(made.model, Path(job.scratch), Path(job.output))
    else:
        save(made.model, Path(job.output))
    return StepOutput(notes=tuple(made.notes), recipe=made.recipe)


def takes(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses what is quantized already."""
    del options
    if summary.state.numerics != Numerics.FP32:
        reason = f"the model is {summary.state.numerics.value}, not fp32"
        return Verdict(support=Support.NEVER, reason=reason, hint="Start from the float model it was made from.")
    return YES


def takes_without_recurrence(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses recurrent layers too."""
    found = sorted(RECURRENT_OPERATORS & set(summary.operators))
    reason = f"{', '.join(found)}: recurrent layers have no static int8 form in ONNX: int8-mixed keeps them"
    return Verdict(support=Support.NOTYET, reason=reason) if found else takes(summary, options)


def takes_lstm(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses a model without LSTM: another edge gives the same."""
    if "LSTM" in summary.operators:
        return takes(summary, options)
    return Verdict(support=Support.NEVER, reason="the model has no LSTM")


def _edge(  # noqa: PLR0913 - a row of the table below
    name: str,
    title: str,
    numerics: Numerics,
    make: Callable[[ConvertJob], Made],
    *,
    cost: float = 1.0,
    form: str = "",
    starts: str = PREPARED,
    check: Callable[[ModelSummary, ConvertOptions], Verdict] = takes,
) -> Edge:
    """An edge of this module; `cost` orders those with the same target."""
    return Edge(
        id=f"onnx.{name}",
        accepts=(Accepts(format="onnx", form=starts),),
        gives=Gives(format="onnx", numerics=numerics, form=form),
        convert=lambda job: _written(job, title, numerics, make),
        check=check,
        lossy=True,
        needs_calibration=numerics.needs_calibration,
        keeps_dynamic=True,
        requires=("onnx>=1.17", ONNXRUNTIME),
        process="onnx",
        cost=cost,
        title=title,
        formerly=(f"onnx.{name}-open",) if starts == PREPARED else (),
    )


def _equalize(job: ConvertJob) -> StepOutput:
    """Brings channels to one range; see `hub_onnxquant.equalize`.

    Raises:
        HubError: As `open_source`; or there is nothing to equalize.
    """
    source = open_source(job.source.path, job.calibration)
    model = type(source.model).FromString(source.model.SerializeToString())
    pairs = equalize(model, SampleFolder(job.calibration))
    if not pairs:
        raise UnsupportedModel(
            "there is nothing to equalize: no two convolutions in a row, with at most Relu or pools between, of which "
            "the first gives channels of other ranges"
        )
    del model.graph.value_info[:]
    save(model, Path(job.output))
    text = f"{len(pairs)} pairs of convolutions pass on channels of one range, exactly as before in float: "
    text += listed([f"{pair.first.name} > {pair.second.name}" for pair in pairs])
    return StepOutput(notes=(*source.notes, Remark("note", "channels-equalized", text)))


def takes_pairs(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses a model without two convolutions."""
    if summary.operators.get("Conv", 0) < 2:  # noqa: PLR2004 - a pair
        return Verdict(support=Support.NEVER, reason="channels are equalized between convolutions, and it has no two")
    return takes(summary, options)


EQUALIZING = (
    Edge(
        id="onnx.equalize",
        accepts=(Accepts(format="onnx", form=PREPARED),),
        gives=Gives(format="onnx", form=EQUALIZED_FORM),
        convert=_equalize,
        check=takes_pairs,
        needs_calibration=True,
        keeps_dynamic=True,
        requires=("onnx>=1.17", ONNXRUNTIME),
        process="onnx",
        cost=0.2,
        title="channels equalized",
    ),
    _edge(
        "int8-equalized",
        "static int8, channels equalized",
        Numerics.INT8,
        lambda job: _whole(job, _fitting),
        cost=1.2,
        starts=EQUALIZED_FORM,
        check=takes_without_recurrence,
    ),
    _edge(
        "int8-mixed-equalized",
        "static int8, channels equalized, fragile layers in float",
        Numerics.INT8_MIXED,
        _mixed,
        starts=EQUALIZED_FORM,
    ),
)
"""Where whole int8 of the model as it is is wrong: with channels of one range, and before layers go back to float."""

QUANTIZING = (
    _edge("int8", "static int8", Numerics.INT8, lambda job: _whole(job, _fitting), check=takes_without_recurrence),
    _edge(
        "int8-symmetric",
        "static int8, symmetric",
        Numerics.INT8,
        lambda job: _whole(job, _symmetric),
        cost=3.0,
        check=takes_without_recurrence,
    ),
    _edge("int8-mixed", "static int8, fragile layers in float", Numerics.INT8_MIXED, _mixed, cost=1.5),
    _edge("int16x8", "static int16 activations, int8 weights", Numerics.INT16X8, _wide),
    _edge("int8-dynamic", "dynamic int8, matrices", Numerics.INT8_DYNAMIC, _dynamic(MATRICES)),
    _edge(
        "int8-dynamic-conv", "dynamic int8, convolutions too", Numerics.INT8_DYNAMIC, _dynamic(CONVOLUTIONS), cost=2.0
    ),
    _edge(
        "int8-dynamic-lstm",
        "dynamic int8, LSTM too",
        Numerics.INT8_DYNAMIC,
        _dynamic(RECURRENT),
        form=RUNTIME_FORM,
        check=takes_lstm,
    ),
    _edge(
        "int8-weights",
        "int8 weights",
        Numerics.INT8_WEIGHTS,
        _narrow(Form(8, 64, symmetric=True), Form(8, 64, symmetric=False)),
    ),
    _edge(
        "int8-weights-matrices",
        "int8 weights, convolutions in float",
        Numerics.INT8_WEIGHTS,
        _narrow(Form(8, 64, symmetric=True, convolutions=False)),
        cost=2.0,
    ),
    _edge(
        "int4-weights",
        "int4 weights in blocks",
        Numerics.INT4_WEIGHTS,
        _narrow(
            Form(4, 32, symmetric=False),
            Form(4, 32, symmetric=True),
            Form(4, 64, symmetric=False),
            Form(4, 128, symmetric=False),
        ),
    ),
    _edge(
        "int4-weights-matrices",
        "int4 weights in blocks, convolutions in float",
        Numerics.INT4_WEIGHTS,
        _narrow(Form(4, 32, symmetric=False, convolutions=False)),
        cost=2.0,
    ),
    _edge("fp16", "float16", Numerics.FP16, lambda job: float16(job.source.path)),
)
"""ONNX float32 -> ONNX in each precision."""
