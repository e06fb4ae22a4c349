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
    _cure(r"non-zero zero point|zero point.{0,80}(must be|not.{0,20}supported|all zero)|asymmetric",
          "it is quantized asymmetrically (a zero point is not 0); TensorRT computes symmetric int8 only",
          "give the float model, with --int8"),
    _cure(r"uint4|uint8.{0,60}(quantiz|not supported)|int16|float8_?e5m2|FP8 ?E5M2",
          "it is quantized to a type that TensorRT has not (uint4, uint8, int16, fp8 E5M2)",
          "give the float model, with --int8, --fp8 or --int4-weights"),
    _cure(r"block size|blocked|divisible by the block", "a weight's rows are no multiple of the quantization's block",
          "give the float model: hub leaves such layers in float"),
    _cure(r"No importer registered for op|unsupported ?(node|op)|plugin.{0,40}not found|Plugin not found",
          "it holds an operator that TensorRT has not", "`hub inspect MODEL` lists its operators"),
    _cure(r"minShape|kMIN|optimization profile|profile.{0,40}(missing|invalid|has not been defined)",
          "the optimization profile does not fit the model", "give sizes that the model takes: --shape INPUT=1..8x..."),
    _cure(r"compute capability|SM ?\d+ .{0,40}not supported|Unsupported SM",
          "the compute capability is none that the library builds for", "see --build-for"),
    _cure(r"Could not find any implementation|no implementation",
          "TensorRT has no kernel for a layer in this precision", "try another precision"),
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
