"""PyTorch -> TFLite with LiteRT Torch. Runs in a worker."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Literal

import msgspec

from hub.spec import DType, IoBinding, Remark, StepError, StepOutput, TensorSpec, UnsupportedModel
from hub_pytorch.rewrite import rewrite_for_litert
from hub_pytorch.tflite_names import name_layers, rename_signature
from hub_torchprogram import AdaptedProgram, adapt, sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hub.spec import ConvertOptions
    from hub_torchprogram import Program

# What LiteRT Torch raises, besides MLIR's own error, when it cannot convert: ValueError from its passes, RuntimeError
# for an operator without a lowering, the others from its lowerings.
_FAILURES = (ValueError, RuntimeError, NotImplementedError, TypeError, KeyError, AttributeError, AssertionError)
_NARROW = {DType.INT64: DType.INT32, DType.UINT64: DType.UINT32, DType.FLOAT64: DType.FLOAT32}


def convert_to_tflite(program: Program, options: ConvertOptions, output: Path) -> StepOutput:
    """Convert a program to TFLite.

    Names, order, dtype and layout of inputs and outputs stay the source's, except for what the options ask for and
    for 64-bit tensors that TFLite's operators cannot take, which are declared.

    Args:
        program: The model.
        options: Shapes (needed for symbolic dimensions), constants, layout.
        output: File to write.

    Raises:
        ShapeNeeded: A dimension is symbolic.
        UnsupportedModel: The model holds something that LiteRT Torch cannot express.
    """
    notes = rewrite_for_litert(program.graph)
    adapted = adapt(program, options)
    wide = any(spec.dtype in _NARROW for spec in (*adapted.inputs, *program.signature.outputs))
    narrowing = _convert_checked(adapted, output, keep_int64=wide)
    inputs = dict(zip(adapted.words, (spec.name for spec in adapted.inputs), strict=True))
    outputs = dict(zip(adapted.output_words, adapted.outputs, strict=True))
    name_layers(output)
    renamed = rename_signature(output, {"inputs": inputs, "outputs": outputs})
    bindings = (*adapted.bindings, *(_narrowed(adapted, program) if narrowing else ()))
    found: dict[tuple[str, str], IoBinding] = {}
    for item in bindings:
        before = found.get((item.direction, item.source))
        joined = None if before is None else f"{before.reason}; {item.reason}"
        found[item.direction, item.source] = (
            item if before is None else msgspec.structs.replace(before, dtype=item.dtype, reason=joined)
        )
    return StepOutput(notes=(*notes, *narrowing, *renamed), bindings=tuple(found.values()))


def _convert_checked(adapted: AdaptedProgram, output: Path, *, keep_int64: bool) -> tuple[Remark, ...]:
    """Convert; where 64-bit integers are to be kept and the result does not run, convert again without them."""
    if not keep_int64:
        _convert(adapted, output, keep_int64=False)
        return ()
    try:
        _convert(adapted, output, keep_int64=True)
        _try_to_open(output)
    except (UnsupportedModel, StepError) as error:
        _convert(adapted, output, keep_int64=False)
        text = f"64-bit inputs and outputs became 32-bit, because with 64 bits: {error.message}"
        return (Remark("note", "integers-narrowed", text),)
    return ()


def _convert(adapted: AdaptedProgram, output: Path, *, keep_int64: bool) -> None:
    import litert_torch
    from litert_converter.mlir import ir

    feeds = {word: sample(spec) for word, spec in zip(adapted.words, adapted.inputs, strict=True)}
    try:
        with quiet():
            model = litert_torch.convert(adapted.module, sample_kwargs=feeds, enable_x64=keep_int64)
            model.export(str(output))
    except (*_FAILURES, ir.MLIRError) as error:
        raise UnsupportedModel(f"LiteRT Torch cannot convert the model: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    # MLIR's messages hold the whole failing operation, weights included: its first line says what it is.
    lines = [line.strip() for line in str(error).splitlines() if "error:" in line or "not found" in line.lower()]
    first = lines[0] if lines else str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:300]}"


def _try_to_open(path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    try:
        Interpreter(model_path=str(path)).allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise StepError(f"the converted file does not open: {error}") from error


def _narrowed(adapted: AdaptedProgram, program: Program) -> tuple[IoBinding, ...]:
    reason = "TFLite has no 64-bit kernels for the operators of this model"
    sides: tuple[tuple[Literal["input", "output"], Sequence[TensorSpec]], ...] = (
        ("input", adapted.inputs),
        ("output", program.signature.outputs),
    )
    return tuple(
        IoBinding(direction=side, source=spec.name, target=spec.name, reason=reason, dtype=_NARROW[spec.dtype])
        for side, specs in sides
        for spec in specs
        if spec.dtype in _NARROW
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep LiteRT Torch's progress lines off standard output, and its known warnings off the log."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)
