"""What TensorRT says when it fails, brought to one cause and one cure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from hub.spec import HubError, StepError, UnsupportedModel

NOISE = re.compile(r"cudaError 35|CUDA initialization failure|CUDA lazy loading", re.IGNORECASE)
"""What TensorRT adds on a machine without a GPU, whatever else went wrong or right."""

_WHERE = re.compile(r"\s*\((?:In|at) [^()]*(?:\([^()]*\))?[^()]*\)|\s*In \w+ at \S+:\d+|^\w+::\w+: Error Code \d+: ")


class Cure(NamedTuple):
    """A known failure: what is found in the messages, what it means, and what to do."""

    found: re.Pattern[str]
    cause: str
    hint: str


def _cure(found: str, cause: str, hint: str) -> Cure:
    return Cure(re.compile(found, re.IGNORECASE), cause, hint)


CURES = (
    _cure(r"FP32 GEMM is not supported", "compute capability 7.5 has no float32 matrix products in TensorRT-RTX",
          "leave sm75 out of --build-for, or ask for --fp16"),
    _cure(r"input has type Int32 but must have type", "a bias is stored in int32 behind a DequantizeLinear",
          "give the float model, with --int8: hub leaves biases in float"),
    _cure(r"Non-zero zero point", "it is quantized asymmetrically, and TensorRT computes symmetric int8 only",
          "give the float model, with --int8"),
    _cure(r"unsupported datatype|Failed to import initializer", "a tensor is stored in a type that TensorRT has not",
          "give the float model: --int8, --fp8 and --int4-weights write the types that it has"),
    _cure(r"unsupported operator|Plugin not found|No importer registered", "it holds an operator that TensorRT has not",
          "`hub inspect MODEL` lists its operators"),
    _cure(r"Unsupported (ONNX )?data type", "a value inside has an element type that TensorRT has not",
          "`hub inspect MODEL` shows the types; strings and sequences stay outside of the model"),
    _cure(r"profile", "the sizes that were asked for do not fit the model", "give others: --shape INPUT=1..8x..."),
    _cure(r"Could not find any implementation|no implementation", "TensorRT has no kernel for a layer in this form",
          "try another precision, or other devices: --build-for"),
    _cure(r"out of memory|OutOfMemory|bad_alloc", "memory ran out", "build on a machine with more memory"),
)  # fmt: skip
"""Measured with TensorRT-RTX 1.7.1, on models that were made to fail."""


def failed(what: str, messages: Iterable[str]) -> HubError:
    """One error for a failed parse or build.

    Args:
        what: What was being done, `TensorRT-RTX 1.7.1.116 cannot build model.onnx`.
        messages: The library's errors, first to last.
    """
    said = [message for message in messages if not NOISE.search(message)]
    whole = " | ".join(said)
    known = next((cure for cure in CURES if cure.found.search(whole)), None)
    told = " ".join(_WHERE.sub("", said[0]).split())[:400] if said else "it gives no reason"
    if known:
        return UnsupportedModel(f"{what}: {known.cause} ({told})", hint=known.hint)
    return StepError(f"{what}: {told}", hint="the step's log has every message of the library")
