"""Compares two ONNX files in ONNX Runtime, and optimizes one: a script of its own, because the runtime can crash.

ONNX Runtime 1.32 ends with signal 11 on some valid models (a voice-activity detector with a frozen sample rate). Run as

    python compare.py REFERENCE CANDIDATE FEEDS.npz
    python compare.py --optimize SOURCE TARGET

The first prints a line when the reference has run, and then as JSON the largest relative error over the outputs, and
how far the reference is from itself without optimization.
"""

import json
import sys
from typing import TYPE_CHECKING, Any

REFERENCE_RAN = "the reference has run"

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[np.generic]]


def _session(path: str, level: str = "ORT_ENABLE_ALL", optimized: str = "") -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if optimized:
        options.optimized_model_filepath = optimized
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _outputs(path: str, feeds: "Arrays", level: str = "ORT_ENABLE_ALL") -> "Arrays":
    session = _session(path, level)
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    arrays = session.run(names, {name: array for name, array in feeds.items() if name in wanted})
    return dict(zip(names, arrays, strict=True))


def relative_error(reference: "npt.NDArray[Any]", candidate: "npt.NDArray[Any]") -> float:
    """Returns max |candidate - reference| / max |reference|; infinite when shapes or non-finite places differ."""
    import numpy as np

    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        return float("inf")
    if reference.dtype.kind not in "fiub" or not reference.size:
        return 0.0 if np.array_equal(reference, candidate) else float("inf")
    wanted, found = reference.astype(np.float64), candidate.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(wanted - found)[finite].max() / max(np.abs(wanted[finite]).max(), 1e-12))


def compare(reference: str, candidate: str, feeds: "Arrays") -> dict[str, float]:
    """Runs both models on the same inputs, and the reference unoptimized as well: its own spread is the noise floor."""
    wanted = _outputs(reference, feeds)
    again = _outputs(reference, feeds, "ORT_DISABLE_ALL")
    print(REFERENCE_RAN, flush=True)  # noqa: T201 - for the parent: a crash after this line is the candidate's
    found = _outputs(candidate, feeds)
    return {
        "error": max((relative_error(wanted[name], found[name]) for name in wanted), default=0.0),
        "noise": max((relative_error(wanted[name], again[name]) for name in wanted), default=0.0),
    }


def main(arguments: list[str]) -> None:
    """Runs one of the two commands."""
    import numpy as np

    if arguments[0] == "--optimize":
        _session(arguments[1], "ORT_ENABLE_BASIC", arguments[2])
        return
    with np.load(arguments[2], allow_pickle=False) as archive:
        feeds = {name: archive[name] for name in archive.files}
    sys.stdout.write(json.dumps(compare(arguments[0], arguments[1], feeds)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
