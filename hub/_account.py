"""What a runtime says of how it executes a model, held against the file and against what was asked for."""

import re
from collections.abc import Iterator

from hub.spec import Execution, ModelSummary, Numerics, Runtime, RuntimeOptions

FLOAT32_WORDS = frozenset({"fp32", "float32"})
"""What readers and runtimes call a layer in float32."""
_FLOATS = frozenset({Numerics.FP32, Numerics.FP16, Numerics.BF16})
_ASIDE = frozenset({"conversion", "integer", "unknown", ""})
"""Words of layers that compute nothing in the model's precision."""
_HALVES = {"f16": "fp16", "bf16": "bf16"}
_ACCELERATOR = re.compile("cuda|gpu|npu|tpu|vulkan", re.IGNORECASE)


def contradictions(told: Execution, how: RuntimeOptions, summary: ModelSummary, runtime: Runtime) -> str:
    """Where a runtime's account cannot be true, in words; empty where nothing speaks against it.

    Args:
        told: The account.
        how: How the model was opened.
        summary: What the format's reader says of the file.
        runtime: Who gives the account.
    """
    said = (*_of_the_file(told, summary), *_of_the_request(told, how, runtime))
    return "; ".join(said)


def _of_the_file(told: Execution, summary: ModelSummary) -> Iterator[str]:
    known = {*summary.operators, *(layer.operator for layer in summary.layers)}
    covered = {word: None for layer in told.layers for word in layer.covers} if told.operators and known else {}
    if strange := [word for word in covered if word not in known]:
        yield f"it executes {', '.join(strange)}, which the file does not have"
    words, held = _words(told), {layer.precision for layer in summary.layers}
    integers = words and all(word.startswith(("int", "fp8")) for word in words)
    if integers and summary.state.numerics in _FLOATS and held & {*FLOAT32_WORDS, *_FLOATS}:
        yield f"it computes in {', '.join(sorted(words))} throughout, and the file is {summary.state.numerics.value}"


def _of_the_request(told: Execution, how: RuntimeOptions, runtime: Runtime) -> Iterator[str]:
    devices = sorted({told.device, *(layer.device for layer in told.layers)})
    if how.device != "cpu" and all("cpu" in device.lower() for device in devices):
        yield f"the device {how.device} was asked for, and it runs on {', '.join(devices)}"
    foreign = [device for device in devices if _ACCELERATOR.search(device)]
    if how.device == "cpu" and not runtime.device and foreign:
        yield f"the device cpu was asked for, and it runs on {', '.join(foreign)}"
    words = _words(told)
    if how.precision in _HALVES and words and words <= FLOAT32_WORDS:
        yield f"the precision {how.precision} was asked for, and it computes in fp32 throughout"


def _words(told: Execution) -> set[str]:
    return {word for layer in told.layers for word in layer.precision.split(" + ")} - _ASIDE
