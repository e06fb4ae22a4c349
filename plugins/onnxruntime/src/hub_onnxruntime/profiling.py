"""Runs a model with ONNX Runtime's profiler, and reads what it says of each kernel."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

RUNS = 5
"""Runs that are counted, after one that is not: it allocates memory."""

_SUFFIX = "_kernel_time"
Types = tuple[str, ...]


class Kernel(NamedTuple):
    """One executed node, over all runs.

    Attributes:
        name: The node's name; `<operator>_<index>` where it has none.
        operator: Without its domain.
        provider: Execution provider that ran it.
        seconds: Time of its own, without that of nodes in its subgraphs, in all runs together.
        inputs: Element types of its inputs as ONNX Runtime names them (`float`, `uint8`).
        outputs: Of its outputs.
    """

    name: str
    operator: str
    provider: str
    seconds: float
    inputs: Types
    outputs: Types


class Profile(NamedTuple):
    """Kernels in the order of their first run, and the graph that was executed."""

    kernels: list[Kernel]
    graph: onnx.GraphProto


def run_profiled(
    open_session: Callable[[ort.SessionOptions], ort.InferenceSession],
    options: ort.SessionOptions,
    run: Callable[[ort.InferenceSession], object],
    graph: onnx.GraphProto | None = None,
) -> Profile:
    """Runs a model a few times in a session of its own.

    Args:
        open_session: Takes session options, opens the model.
        options: Session options; the profiler's are added.
        run: Runs an opened session once.
        graph: The graph that is executed, where it is known (`.ort`); otherwise ONNX Runtime writes it down.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="hub-profile-") as folder:
        written = Path(folder) / "executed.onnx"
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        if graph is None:
            options.optimized_model_filepath = str(written)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "executed.data")
        session = open_session(options)
        for _ in range(1 + RUNS):
            run(session)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(written, load_external_data=False).graph if graph is None else graph
    return Profile(kernels_of(events), graph)


def kernels_of(events: Sequence[Any]) -> list[Kernel]:
    """Sums up the profiler's events by node, the first run left out.

    Times are exclusive: a `Loop` is not charged with what its body takes, which has events of its own.
    """
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")
    second = runs[1] if len(runs) > 1 else 0
    timed = [event for event in events if event["cat"] == "Node" and event["name"].endswith(_SUFFIX)]
    timed = sorted((event for event in timed if event["ts"] >= second), key=lambda event: (event["ts"], -event["dur"]))
    seconds: dict[str, float] = defaultdict(float)
    first: dict[str, Any] = {}
    for event, own in _exclusive(timed):
        name = event["name"].removesuffix(_SUFFIX)
        first.setdefault(name, event)
        seconds[name] += own * 1e-6
    return [_kernel(name, event, seconds[name]) for name, event in first.items()]


def _exclusive(events: Sequence[Any]) -> Iterator[tuple[Any, float]]:
    """Yields each event with its duration in microseconds, less that of the events inside it on the same thread."""
    inside: dict[int, float] = defaultdict(float)
    stacks: dict[Any, list[int]] = defaultdict(list)
    for index, event in enumerate(events):
        stack = stacks[event["tid"]]
        while stack and events[stack[-1]]["ts"] + events[stack[-1]]["dur"] <= event["ts"]:
            stack.pop()
        if stack:
            inside[stack[-1]] += event["dur"]
        stack.append(index)
    for index, event in enumerate(events):
        yield event, max(0.0, event["dur"] - inside[index])


def _kernel(name: str, event: Any, seconds: float) -> Kernel:
    said = event["args"]
    # The profiler writes `[{'float': [1, 8]}]`.
    inputs, outputs = (
        tuple(kind for tensor in said.get(key, []) for kind in tensor)
        for key in ("input_type_shape", "output_type_shape")
    )
    return Kernel(name, said["op_name"], said["provider"], seconds, inputs, outputs)
