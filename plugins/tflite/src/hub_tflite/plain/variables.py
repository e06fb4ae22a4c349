"""State that a file keeps in variables from run to run, lifted to inputs and outputs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hub.spec import UnsupportedModel
from hub_tflite.rewrite import add_constant, add_signature, new_operator
from hub_tflitefile.interface import interface_of
from hub_tflitefile.schema import constant, dtype_of, new, numbers, operator_name, text, type_name
from hub_tflitefile.tables import BufferT, TensorMapT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub_tflitefile.tables import ModelT, OperatorT, SubGraphT

    Array = npt.NDArray[np.generic]

NEXT = "_next"
"""What the output of a state has behind the state's name."""

_FIRST = frozenset({"ASSIGN_VARIABLE", "VAR_HANDLE"})
"""Operators of a graph that stores first values and does nothing else."""
_VARIABLES = _FIRST | {"READ_VARIABLE"}


@dataclass(frozen=True, slots=True)
class LiftedState:
    """One variable that became an input and an output.

    Attributes:
        name: The variable's name, and the input's.
        output: The output's name.
        first: Its value before the first run.
    """

    name: str
    output: str
    first: Array

    @property
    def starts_at_zero(self) -> bool:
        """Whether the first value is 0 as it is stored, where `--state` starts: the integer 0, if it is one."""
        return not self.first.any()

    def __str__(self) -> str:
        """The name and the first value: "weights (0.5)", "weights (int8 from -128 to 3)"."""
        low, high = self.first.min(), self.first.max()
        kind = "" if self.first.dtype.kind == "f" else f"{self.first.dtype} "
        return f"{self.name} ({kind}{low})" if low == high else f"{self.name} ({kind}from {low} to {high})"


def has_state(model: ModelT) -> bool:
    """Whether the main graph writes variables at run time."""
    graph, _, _ = interface_of(model)
    return any(operator_name(model, operator) == "ASSIGN_VARIABLE" for operator in graph.operators)


@dataclass(slots=True)
class _Lift:
    """The main graph while its variables become values.

    Attributes:
        model: The file.
        graph: The main graph.
        first: Variable -> its value before the first run.
        handles: Place of a handle -> variable.
        given: Variable -> place of its value at the start of a run.
        now: Variable -> place of its value so far.
        same: Place -> place of the value that it stands for.
        written: Variables that were written.
    """

    model: ModelT
    graph: SubGraphT
    first: dict[str, Array]
    handles: dict[int, str] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)
    now: dict[str, int] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)

    def take(self, operator: OperatorT) -> bool:
        """Follow one operator; returns whether it stays."""
        name = operator_name(self.model, operator)
        operator.inputs = inputs = [self.same.get(index, index) for index in numbers(operator.inputs)]
        if name == "CALL_ONCE":
            return False
        if name == "VAR_HANDLE":
            self.handles[numbers(operator.outputs)[0]] = variable_name(operator)
        elif name == "READ_VARIABLE":
            self._read(self._variable(inputs[0]), numbers(operator.outputs)[0])
        elif name == "ASSIGN_VARIABLE":
            variable = self._variable(inputs[0])
            self.now[variable] = inputs[1]
            self.written.add(variable)
        else:
            used = sorted({self.handles[index] for index in inputs if index in self.handles})
            if used:
                raise UnsupportedModel(f"{name} takes the variable {used[0]}: its state cannot be lifted")
            return True
        return False

    def _variable(self, handle: int) -> str:
        if handle not in self.handles:
            raise UnsupportedModel("a variable comes from elsewhere than the main graph: its state cannot be lifted")
        return self.handles[handle]

    def _read(self, variable: str, result: int) -> None:
        if variable in self.now:
            self.same[result] = self.now[variable]
        else:
            self.given[variable] = self.now[variable] = result


def lift_variables(model: ModelT) -> tuple[LiftedState, ...]:
    """Make inputs and outputs of a file's variables, in place; returns them in the order of the inputs.

    An input is named like the variable, and its output has `_next` behind that.

    Raises:
        UnsupportedModel: A variable is used in a loop, branch or other signature, its first value is computed, or more
            than that is done before the first run.
    """
    add_signature(model)
    graph, inputs, outputs = interface_of(model)
    lift = _Lift(model, graph, _first_values(model))
    graph.operators = [operator for operator in graph.operators if lift.take(operator)]
    graph.outputs = [lift.same.get(index, index) for index in numbers(graph.outputs)]
    signature = (model.signatureDefs or [])[0]
    for entry in signature.outputs or []:
        entry.tensorIndex = lift.same.get(int(entry.tensorIndex), int(entry.tensorIndex))
    _keep_initialized(lift)
    states = []
    taken = {name for name, _ in (*inputs, *outputs)}
    for variable, place in lift.given.items():
        if variable not in lift.written:
            continue
        state = _state(lift, variable, taken)
        taken |= {state.name, state.output}
        states.append(state)
        graph.inputs = [*numbers(graph.inputs), place]
        entry = new(TensorMapT, name=state.name.encode(), tensorIndex=place)
        signature.inputs = [*(signature.inputs or []), entry]
        after = _own_output(lift, lift.now[variable])
        graph.outputs = [*numbers(graph.outputs), after]
        entry = new(TensorMapT, name=state.output.encode(), tensorIndex=after)
        signature.outputs = [*(signature.outputs or []), entry]
    _drop_subgraphs(model)
    return tuple(states)


def variable_name(operator: OperatorT) -> str:
    """Return the name that a VAR_HANDLE gives its variable."""
    options = operator.builtinOptions
    container, name = (text(part) for part in (options.container, options.sharedName))
    return f"{container}/{name}" if container else name


def _keep_initialized(lift: _Lift) -> None:
    """Variables that are only read hold their first value for ever: constants."""
    import numpy as np

    for variable in set(lift.given) - lift.written:
        data = np.frombuffer(_first(lift, variable).tobytes(), np.uint8)
        lift.model.buffers.append(new(BufferT, data=data))
        lift.graph.tensors[lift.given[variable]].buffer = len(lift.model.buffers) - 1


def _state(lift: _Lift, variable: str, taken: set[str]) -> LiftedState:
    name = variable
    while name in taken or f"{name}{NEXT}" in taken:
        name += "_state"
    return LiftedState(name, f"{name}{NEXT}", _first(lift, variable))


def _first(lift: _Lift, variable: str) -> Array:
    if variable not in lift.first:
        raise UnsupportedModel(f"the first value of the variable {variable} is not stored: its state cannot be lifted")
    return lift.first[variable]


def _own_output(lift: _Lift, place: int) -> int:
    """A value that is an output once: an input, a constant, or what is an output already is copied by a RESHAPE."""
    taken = {*numbers(lift.graph.inputs), *numbers(lift.graph.outputs)}
    tensor = lift.graph.tensors[place]
    if place not in taken and constant(lift.model, tensor) is None:
        return place
    import numpy as np

    made = copy.copy(tensor)
    made.name, made.buffer = f"{text(tensor.name)}/copy".encode(), 0
    lift.graph.tensors.append(made)
    copied = len(lift.graph.tensors) - 1
    sizes = np.asarray(numbers(tensor.shape), np.int32)
    shape = add_constant(lift.model, lift.graph, f"{text(made.name)}/sizes", sizes, sizes.shape, "INT32")
    lift.graph.operators.append(new_operator(lift.model, "RESHAPE", [place, shape], [copied], "ReshapeOptions"))
    return copied


def _first_values(model: ModelT) -> dict[str, Array]:
    """Variable -> the constant that a graph behind a CALL_ONCE gives it.

    Raises:
        UnsupportedModel: Such a graph does more, or a variable is in a graph of another kind.
    """
    main, _, _ = interface_of(model)
    calls = [operator for operator in main.operators if operator_name(model, operator) == "CALL_ONCE"]
    initial = {int(call.builtinOptions.initSubgraphIndex) for call in calls}
    for place, graph in enumerate(model.subgraphs):
        names = {operator_name(model, operator) for operator in graph.operators}
        if place in initial and names - _FIRST:
            others = ", ".join(sorted(names - _FIRST))
            raise UnsupportedModel(f"{others} runs once before the first run: the file's state cannot be lifted")
        if place not in initial and graph is not main and names & _VARIABLES:
            where = text(graph.name) or f"number {place}"
            raise UnsupportedModel(f"the graph {where} uses variables beside the main one: they cannot be lifted")
    found: dict[str, Array] = {}
    for place in sorted(initial):
        found |= _assigned(model, model.subgraphs[place])
    return found


def _assigned(model: ModelT, graph: SubGraphT) -> dict[str, Array]:
    """Variable -> the constant that a graph assigns to it."""
    import numpy as np

    found: dict[str, Array] = {}
    handles: dict[int, str] = {}
    for operator in graph.operators:
        if operator_name(model, operator) == "VAR_HANDLE":
            handles[numbers(operator.outputs)[0]] = variable_name(operator)
            continue
        handle, value = numbers(operator.inputs)
        tensor = graph.tensors[value]
        data = constant(model, tensor)
        if data is not None:
            kind = "?" if type_name(tensor) == "BOOL" else dtype_of(tensor).value
            found[handles[handle]] = np.frombuffer(bytes(data), kind).reshape(numbers(tensor.shape))
    return found


def _drop_subgraphs(model: ModelT) -> None:
    """Leave out graphs that nothing calls any more, where none but the main one is called at all."""
    calls = {"CALL", "IF", "WHILE", "CALL_ONCE", "STABLEHLO_COMPOSITE"}
    graph, _, _ = interface_of(model)
    called = any(operator_name(model, operator) in calls for operator in graph.operators)
    if graph is model.subgraphs[0] and len(model.signatureDefs or []) <= 1 and not called:
        model.subgraphs = [graph]
