"""Compares two ONNX files in ONNX Runtime, and optimizes one: a script of its own, because the runtime can crash.

ONNX Runtime 1.32 ends with signal 11 on some valid models (a voice-activity detector with a frozen sample rate). Run as

    python compare.py REFERENCE CANDIDATE FEEDS.npz...
    python compare.py --optimize SOURCE TARGET

The first takes the first feeds that the reference runs on, two at most: a model with open dims is compared at two
sizes, and not every size fits every model. It prints a line when the reference has run, and then as JSON the largest
relative error over the outputs, how far the reference is from itself without optimization, and which feeds were used.
"""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

REFERENCE_RAN = "the reference has run"
MOST_FEEDS = 2  # at one size alone, a dimension that was fixed by mistake would not show

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[np.generic]]


def _session(path: str, level: str = "ORT_ENABLE_ALL", optimized: str = "") -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_prepacking", "1")  # a copy of the weights, for one run
    options.log_severity_level = 4
    if optimized:
        options.optimized_model_filepath = optimized
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: Any, feeds: "Arrays") -> "Arrays":
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    arrays = session.run(names, {name: array for name, array in feeds.items() if name in wanted})
    return dict(zip(names, arrays, strict=True))


def _outputs(path: str, feeds: "Sequence[Arrays]", level: str = "ORT_ENABLE_ALL") -> "list[Arrays]":
    session = _session(path, level)
    return [_run(session, item) for item in feeds]


def _runnable(path: str, feeds: "Sequence[Arrays]") -> "tuple[list[Arrays], list[int]]":
    """Outputs on the first feeds that the model takes, `MOST_FEEDS` at most, and which ones these are.

    Raises:
        Exception: What ONNX Runtime said of the last feeds, when it takes none.
    """
    session = _session(path)
    outputs, places = [], []
    failure: Exception = RuntimeError("nothing to run on")
    for place, item in enumerate(feeds):
        try:
            outputs.append(_run(session, item))
            places.append(place)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common base; a size may not fit
            failure = error
        if len(places) == MOST_FEEDS:
            break
    if not places:
        raise failure
    return outputs, places


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


def _worst(wanted: "Sequence[Arrays]", found: "Sequence[Arrays]") -> float:
    errors = (relative_error(a[name], b[name]) for a, b in zip(wanted, found, strict=True) for name in a)
    return max(errors, default=0.0)


def compare(reference: str, candidate: str, feeds: "Sequence[Arrays]") -> dict[str, Any]:
    """Runs both models on the same inputs, and the reference unoptimized as well: its own spread is the noise floor.

    One session is open at a time: large models do not fit into memory twice.
    """
    wanted, places = _runnable(reference, feeds)
    used = [feeds[place] for place in places]
    again = _outputs(reference, used, "ORT_DISABLE_ALL")
    print(REFERENCE_RAN, flush=True)  # noqa: T201 - for the parent: a crash after this line is the candidate's
    found = _outputs(candidate, used)
    return {"error": _worst(wanted, found), "noise": _worst(wanted, again), "feeds": places}


def _load(path: str) -> "Arrays":
    import numpy as np

    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def main(arguments: list[str]) -> None:
    """Runs one of the two commands."""
    if arguments[0] == "--optimize":
        _session(arguments[1], "ORT_ENABLE_BASIC", arguments[2])
        return
    reference, candidate, *feeds = arguments
    sys.stdout.write(json.dumps(compare(reference, candidate, [_load(path) for path in feeds])) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
