"""Holds a model whose state was lifted against the file that keeps it inside, over several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hub.spec import StepError
from hub_tflite.plain.variables import LiftedState
from hub_tflitefile.interface import interface_of
from hub_tflitefile.schema import parse

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

STEPS = 8
"""Runs that are compared. A state that is lost, swapped or taken too late shows in the second or third."""
_SMALL = 2  # bytes of the integers that quantization computes in


class _Model:
    """A file in LiteRT with the reference kernels; its variables keep their values from run to run."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        _, inputs, outputs = interface_of(parse(content))
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        try:
            resolver = OpResolverType.BUILTIN_REF
            self.interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise StepError(f"LiteRT does not open the model: {' '.join(str(error).split())}") from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        for name, array in feeds.items():
            self.interpreter.set_tensor(self.inputs[name], array)
        self.interpreter.invoke()
        return {name: self.interpreter.get_tensor(place).copy() for name, place in self.outputs.items()}

    def drawn(self, rng: np.random.Generator) -> dict[str, Array]:
        """Draw each input: all that a small integer type holds, wide integers from 0 to 99, or normal numbers.

        Wide integers count or pick something; small ones stand for reals, which a part of their range can round away.
        """
        import numpy as np

        made: dict[str, Array] = {}
        names = {place: name for name, place in self.inputs.items()}
        for detail in self.interpreter.get_input_details():
            kind, shape = np.dtype(detail["dtype"]), tuple(detail["shape"])
            array: npt.NDArray[np.generic]
            if kind.kind == "f":
                array = rng.standard_normal(shape)
            elif kind.kind == "b":
                array = rng.integers(0, 2, shape)
            else:
                low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if kind.itemsize <= _SMALL else (0, 99)
                array = rng.integers(low, high, shape, endpoint=True)
            made[names[detail["index"]]] = np.asarray(array, kind)
        return made


def differing_step(before: bytes, after: bytes, states: Sequence[LiftedState]) -> int | None:
    """Run both over one sequence of random inputs.

    Args:
        before: The file that keeps its state in variables.
        after: The same model with the states as inputs and outputs.
        states: What was lifted.

    Returns:
        The first run, from 0, in which an output is not the same bit for bit; None where all are.

    Raises:
        StepError: LiteRT refuses one of them.
    """
    import numpy as np

    inside, lifted = _Model(before), _Model(after)
    values: dict[str, Array] = {state.name: state.first for state in states}
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        feeds = inside.drawn(rng)
        wanted, found = inside.run(feeds), lifted.run(feeds | values)
        if any(array.tobytes() != found[name].tobytes() for name, array in wanted.items()):
            return step
        values = {state.name: found[state.output] for state in states}
    return None
