"""Writes plain operators in the place of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hub.spec import UnsupportedModel
from hub_tflite.rewrite import add_constant, add_tensor, new_operator
from hub_tflitefile.schema import numbers, text

if TYPE_CHECKING:
    import numpy.typing as npt

    from hub_tflitefile.tables import ModelT, OperatorT, SubGraphT

FLOAT, INTEGER, TRUTH = "FLOAT32", "INT32", "BOOL"


@dataclass(slots=True)
class PlainWriter:
    """Where an operator's plain form is written.

    Attributes:
        model: The file.
        graph: The operator's graph.
        operator: The operator.
        name: Its kind, for messages.
        operators: What was written so far, in order.
    """

    model: ModelT
    graph: SubGraphT
    operator: OperatorT
    name: str
    operators: list[OperatorT] = field(default_factory=list)

    @property
    def inputs(self) -> list[int]:
        """Places of the operands."""
        return numbers(self.operator.inputs)

    @property
    def outputs(self) -> list[int]:
        """Places of the results."""
        return numbers(self.operator.outputs)

    def sizes(self, tensor: int) -> list[int]:
        """Return the sizes of a tensor.

        Raises:
            UnsupportedModel: One is open.
        """
        found = self.graph.tensors[tensor]
        sizes = numbers(found.shapeSignature) or numbers(found.shape)
        if -1 in sizes:
            reason = f"{self.name} takes {text(found.name)} of open sizes {sizes}"
            raise UnsupportedModel(f"{reason}, and has a plain form for fixed sizes only")
        return sizes

    def refuse_unless(self, true: bool, reason: str) -> None:
        """Stop at a form of the operator that is not written.

        Raises:
            UnsupportedModel: `true` is False.
        """
        if not true:
            raise UnsupportedModel(f"{self.name} has no plain form: {reason}")

    def number(self, values: npt.ArrayLike, kind: str = FLOAT) -> int:
        """Store a constant of float32 or int32; returns its place."""
        import numpy as np

        array = np.ascontiguousarray(values, np.float32 if kind == FLOAT else np.int32)
        shape = np.shape(values)
        return add_constant(self.model, self.graph, f"{self._label()}/constant", array, shape, kind)

    def emit(  # noqa: PLR0913 - an operator has a name, operands, a result and options
        self,
        kind: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        options: str = "",
        *,
        result: int | None = None,
        element: str = FLOAT,
        version: int = 1,
        **fields: int,
    ) -> int:  # the fields are the schema's own
        """Write an operator with one result; returns the result's place.

        Args:
            kind: Its name in the schema.
            inputs: Places of its operands.
            shape: Sizes of its result.
            options: Its table of options.
            result: Place of a tensor that there is already and that it makes.
            element: Element type of a new result.
            version: Of the operator.
            fields: Of its options.
        """
        place = add_tensor(self.graph, self._label(), shape, 0, element) if result is None else result
        made = new_operator(self.model, kind, list(inputs), [place], options, version=version, **fields)
        self.operators.append(made)
        return place

    def cut(self, value: int, begin: Sequence[int], size: Sequence[int], element: str = FLOAT) -> int:
        """Write a part of a tensor."""
        places = [self.number(begin, INTEGER), self.number(size, INTEGER)]
        return self.emit("SLICE", [value, *places], size, "SliceOptions", element=element)

    def shaped(self, value: int, shape: Sequence[int], *, result: int | None = None, element: str = FLOAT) -> int:
        """Write a tensor in other sizes."""
        sizes = self.number(list(shape), INTEGER)
        return self.emit("RESHAPE", [value, sizes], shape, "ReshapeOptions", result=result, element=element)

    def _label(self) -> str:
        return f"{text(self.graph.tensors[self.outputs[0]].name)}/{self.name}_{len(self.graph.tensors)}"
