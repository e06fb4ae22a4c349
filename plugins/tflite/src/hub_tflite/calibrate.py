"""Measures the range of every activation of a float graph on calibration samples.

ai-edge-quantizer's own calibration averages the extremes of the samples (weight 0.95 on the past): the result depends
on the order of the samples and clips the rarer ones. Here the extremes are exact, over all samples. Clipping further
(least squared error per tensor) was measured and left out: outliers of transformers and OCR networks carry meaning
(cosine 0.93 -> 0.83 and 0.94 -> 0.46).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.spec import CalibrationError, StepError
from hub_tflitefile.interface import interface_of
from hub_tflitefile.schema import numbers, parse

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from ai_edge_litert.interpreter import Interpreter

    from hub.spec import Feeds
    from hub_tflitefile.tables import SubGraphT

    Array = npt.NDArray[np.generic]
    Floats = npt.NDArray[np.float32]

METHOD = "min-max over all samples"
HUGE = 1e30
"""Above this a value is a stand-in for infinity (attention masks use -3.4e38), not a measurement."""


@dataclass(slots=True)
class CalibratedTensors:
    """What was seen of one activation.

    Attributes:
        rank: Number of dimensions.
        low: Smallest value.
        high: Largest value.
        huge: Whether stand-ins for infinity were seen; they are left out of the range.
    """

    rank: int
    low: float = float("inf")
    high: float = float("-inf")
    huge: bool = False

    def add(self, array: Array) -> None:
        """Adds one sample's values."""
        import numpy as np

        flat = np.asarray(array, np.float32).ravel()
        real = flat[np.abs(flat) < HUGE]
        self.huge |= real.size < flat.size
        if real.size:
            self.low = min(self.low, float(real.min()))
            self.high = max(self.high, float(real.max()))


def observe(content: bytes, samples: Iterable[Feeds]) -> dict[str, CalibratedTensors]:
    """Runs the float graph on every sample; returns what was seen of each activation by tensor name.

    Args:
        content: Bytes of a float model with unique tensor names.
        samples: Feeds by input name.

    Raises:
        CalibrationError: There are no samples, or one does not fit the model.
        StepError: The float model itself does not run.
    """
    import numpy as np

    interpreter, graph, inputs = _observing_interpreter(content)
    made = {index for operator in graph.operators for index in numbers(operator.outputs)} | {*numbers(graph.inputs)}
    details = interpreter.get_tensor_details()
    watched = {d["name"]: d["index"] for d in details if d["index"] in made and d["dtype"] == np.float32}
    seen: dict[str, CalibratedTensors] = {}
    for number, feeds in enumerate(samples):
        _run(interpreter, inputs, feeds, number)
        for name, index in watched.items():
            array = _value(interpreter, index)
            if array is not None:
                seen.setdefault(name, CalibratedTensors(array.ndim)).add(array)
    if not seen:
        raise CalibrationError("there are no calibration samples", hint="give some: --calibration DATA")
    return {name: observed for name, observed in seen.items() if observed.low <= observed.high}


def _observing_interpreter(content: bytes) -> tuple[Interpreter, SubGraphT, dict[str, int]]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        interpreter = Interpreter(
            model_content=content,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise StepError(f"the float model does not run in LiteRT: {' '.join(str(error).split())}") from error
    graph, inputs, _ = interface_of(parse(content))
    return interpreter, graph, dict(inputs)


def _run(interpreter: Interpreter, inputs: dict[str, int], feeds: Feeds, number: int) -> None:
    if set(feeds) != set(inputs):
        raise CalibrationError(
            f"sample {number} has {sorted(feeds)}, the model takes {sorted(inputs)}",
            hint="name the arrays in the .npz files by the model's inputs",
        )
    try:
        details = {detail["index"]: tuple(detail["shape"]) for detail in interpreter.get_input_details()}
        changed = [name for name, array in feeds.items() if details[inputs[name]] != array.shape]
        for name in changed:
            interpreter.resize_tensor_input(inputs[name], feeds[name].shape, strict=True)
        if changed:
            interpreter.allocate_tensors()
        interpreter.reset_all_variables()
        for name, array in feeds.items():
            interpreter.set_tensor(inputs[name], array)
        interpreter.invoke()
    except (ValueError, RuntimeError) as error:
        raise CalibrationError(f"sample {number} does not fit the model: {' '.join(str(error).split())}") from error


def _value(interpreter: Interpreter, index: int) -> Array | None:
    try:
        value: Array = interpreter.get_tensor(index)
    except ValueError:  # a tensor that the kernels never materialise (results of a loop that nothing reads)
        return None
    return value


def statistics(observed: dict[str, CalibratedTensors]) -> dict[str, dict[str, Floats]]:
    """Returns ranges in the quantizer's form: tensor name -> min and max, each of the tensor's rank."""
    return {
        name: {"min": _of_rank(item, item.low), "max": _of_rank(item, item.high)} for name, item in observed.items()
    }


def _of_rank(observed: CalibratedTensors, value: float) -> Floats:
    import numpy as np

    return np.full((1,) * observed.rank, value, np.float32)
