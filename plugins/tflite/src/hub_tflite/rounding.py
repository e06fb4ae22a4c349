"""What the int8 rounding of each activation alone does to the outputs, and which layers go back to float for it.

One float file serves for all measurements: every activation is rounded to a step that is an input of the file, one
number for each; a tiny step rounds nothing. The steps, and the weights as they are stored, are read off the quantized
file, so that a scale that tensors share (a concatenation's) is as it will be.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from hub_quanttrials import WEIGHTS, WEIGHTS_DB, Judge, Noise
from hub_tflite.numerics import MOVE_OPERATORS, layer_name, precision_report
from hub_tflite.rewrite import add_tensor, new_operator
from hub_tflite.runtime import LiteRtSession
from hub_tflitefile.interface import interface_of, quant_params
from hub_tflitefile.schema import constant, content, dtype_of, new, numbers, operator_name, parse, text, to_bytes
from hub_tflitefile.tables import TensorMapT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub.spec import Feeds, StepWatch
    from hub_tflitefile.tables import Bytes, ModelT, OperatorT, SubGraphT

    Reals = npt.NDArray[np.float64]

_STEPS = "hub_steps"
_TINY = 2.0**-20  # of an int8 step: float32 holds what is rounded to it as it is
_WORK = 4e11
"""Multiplications that the measurement may take: samples are left out of it, down to one, in large models."""

_MOST_SAMPLES = 4
_PER_NUMBER = 4.0  # multiplications that moving one number of a result costs as much as
_MOVERS = MOVE_OPERATORS | {"MAX_POOL_2D"}
_INT8 = frozenset({"int8", "uint8"})


def measure_noise(
    source: bytes,
    quantized: bytes,
    judge: Judge,
    shared: Sequence[frozenset[str]] = (),
    watch: StepWatch | None = None,
) -> Noise:
    """Runs the float model with one activation rounded at a time.

    Weights are all as the quantized file stores them, unless that alone is near what is to be reached: then what those
    of each layer do is measured too, and they are places of their own, `WEIGHTS` behind the layer's name.

    Args:
        source: The float file, whose tensors have unique names.
        quantized: What the quantizer made of it, whose layers are named as the source's.
        judge: Gives the samples, and measures.
        shared: Layers that can only go back to float together.
        watch: As for `Noise.measure`.

    Returns:
        Layers are named by their first output.

    Raises:
        StepError: LiteRT does not run the model with rounding in it.
    """
    probe = _RoundingProbe(parse(source), parse(quantized), judge, watch)
    noise = probe.of_activations(shared)
    return noise if noise.rest_db >= WEIGHTS_DB else noise.joined(*probe.of_weights())


class _RoundingProbe:
    """The float model, with rounding of activations by steps that it is given, and of any of its weights."""

    def __init__(self, model: ModelT, quantized: ModelT, judge: Judge, watch: StepWatch | None) -> None:
        import numpy as np

        self._model, self._judge, self._watch = model, judge, watch
        graph = self._graph = interface_of(model).graph
        integer = {layer.name for layer in precision_report(quantized).layers if layer.precision in _INT8}
        named = {layer_name(graph, operator): operator for operator in graph.operators}
        self._layers = {name: (numbers(o.inputs), numbers(o.outputs)) for name, o in named.items() if name in integer}
        self._costs = [_cost(model, graph, named[name]) for name in self._layers]
        steps = _steps(graph, quantized)
        self._groups = _groups(model, graph, steps)
        self._places = {index: place for place, index in enumerate(steps)}
        self._steps = np.array(list(steps.values()), np.float32)
        self._weights = _rounded_weights(model, quantized)
        work = sum(_cost(model, graph, operator) for operator in graph.operators) * (len(self._groups) + 1)
        self._used = max(1, min(_MOST_SAMPLES, int(_WORK / work)))
        _round_activations(model, list(steps))

    def _open(self, indices: Iterable[int]) -> LiteRtSession:
        """The model with these weights rounded."""
        buffers = {index: self._model.buffers[self._graph.tensors[index].buffer] for index in indices}
        floats = {index: buffer.data for index, buffer in buffers.items()}
        for index, buffer in buffers.items():
            buffer.data = self._weights[index]
        session = LiteRtSession(to_bytes(self._model), threads=os.cpu_count() or 1)
        for index, buffer in buffers.items():
            buffer.data = floats[index]
        return session

    def of_activations(self, shared: Sequence[frozenset[str]]) -> Noise:
        """Of each group of activations beside rounded weights; places are layers."""
        import numpy as np

        together = {name: group for group in shared for name in group}
        ties = np.zeros((len(self._groups), len(self._layers)), bool)
        for name, (inputs, outputs) in self._layers.items():
            everyone = [place for place, other in enumerate(self._layers) if other in together.get(name, {name})]
            for row, group in enumerate(self._groups):
                if group.intersection((*inputs, *outputs)):
                    ties[row, everyone] = True
        with closing(self._open(self._weights)) as session:

            def run(feeds: Feeds, row: int | None) -> Feeds:
                steps = self._steps * np.float32(_TINY)
                on = [self._places[index] for index in self._groups[row]] if row is not None else []
                steps[on] = self._steps[on]
                return session.run({**feeds, _STEPS: steps})

            return Noise.measure([*self._layers], self._judge, run, self._used, self._costs, ties, watch=self._watch)

    def of_weights(self) -> tuple[Noise, list[int], list[int]]:
        """Of each layer's weights beside float activations; the layers' places, and how many weights there are."""
        import numpy as np

        readers = {index: place for place, (inputs, _) in enumerate(self._layers.values()) for index in inputs}
        weights = [index for index in self._weights if index in readers]
        steps = self._steps * np.float32(_TINY)
        with ExitStack() as stack:
            opened: dict[int | None, LiteRtSession] = {}

            def run(feeds: Feeds, row: int | None) -> Feeds:
                if row not in opened:
                    stack.close()  # the one before
                    opened.clear()
                    opened[row] = stack.enter_context(closing(self._open([] if row is None else [weights[row]])))
                return opened[row].run({**feeds, _STEPS: steps})

            names = [[*self._layers][readers[index]] + WEIGHTS for index in weights]
            noise = Noise.measure(names, self._judge, run, self._used, watch=self._watch)
        sizes = [math.prod(numbers(self._graph.tensors[index].shape)) for index in weights]
        return noise, [readers[index] for index in weights], sizes


def _steps(graph: SubGraphT, quantized: ModelT) -> dict[int, float]:
    """Activation of the float graph -> the step that it is rounded to in the quantized file."""
    found = {
        text(tensor.name): float(params.scale[0])
        for tensor in interface_of(quantized).graph.tensors
        if dtype_of(tensor) in _INT8 and (params := quant_params(tensor)) and len(params.scale) == 1
    }
    moving = {index for operator in graph.operators for index in numbers(operator.outputs)} | {*numbers(graph.inputs)}
    names = {index: text(graph.tensors[index].name) for index in sorted(moving)}
    steps = {index: found.get(name) or found.get(f"{name}_quantized") for index, name in names.items()}
    return {index: step for index, step in steps.items() if step}


def _groups(model: ModelT, graph: SubGraphT, steps: dict[int, float]) -> list[set[int]]:
    """Activations that are the same numbers on the same grid: what is rounded before a move need not be after it."""
    groups = {index: {index} for index in steps}
    for operator in graph.operators:
        if operator_name(model, operator) in _MOVERS:
            touched = [index for index in (*numbers(operator.outputs), *numbers(operator.inputs)) if index in steps]
            for index in touched[1:]:
                if steps[index] == steps[touched[0]] and groups[index] is not groups[touched[0]]:
                    groups[touched[0]] |= groups[index]
                    groups |= dict.fromkeys(groups[index], groups[touched[0]])
    return list({id(group): group for group in groups.values()}.values())


def _cost(model: ModelT, graph: SubGraphT, operator: OperatorT) -> float:
    """Multiplications of a layer, and for each number that it gives as much time as a few of them take."""
    sizes = [math.prod(numbers(graph.tensors[index].shape)) for index in numbers(operator.outputs)]
    cost = _PER_NUMBER * sum(sizes) + 1
    inputs = [graph.tensors[index] for index in numbers(operator.inputs) if index >= 0]
    name = operator_name(model, operator)
    if name in {"CONV_2D", "FULLY_CONNECTED"}:
        return cost + sizes[0] * math.prod(numbers(inputs[1].shape)[1:])
    if name == "DEPTHWISE_CONV_2D":
        return cost + sizes[0] * math.prod(numbers(inputs[1].shape)[1:3])
    if name == "TRANSPOSE_CONV":
        return cost + math.prod(numbers(inputs[2].shape)) * math.prod(numbers(inputs[1].shape)[:3])
    if name == "BATCH_MATMUL":
        left = numbers(inputs[0].shape)
        return (
            cost + sizes[0] * left[-2 if operator.builtinOptions is not None and operator.builtinOptions.adjX else -1]
        )
    return cost


def _rounded_weights(model: ModelT, quantized: ModelT) -> dict[int, Bytes]:
    """Constant of the main graph -> its values as the quantized file stores them, in float32."""
    import numpy as np

    stored = {text(tensor.name): tensor for tensor in interface_of(quantized).graph.tensors}
    rounded = {}
    for index, tensor in enumerate(interface_of(model).graph.tensors):
        other = stored.get(text(tensor.name))
        params = quant_params(other) if other is not None and dtype_of(other) == "int8" else None
        if other is None or not params or constant(model, tensor) is None or constant(quantized, other) is None:
            continue
        values = np.frombuffer(content(quantized, other), np.int8).reshape(numbers(other.shape))
        along = [1] * values.ndim
        if len(params.scale) > 1:
            along[params.axis or 0] = -1
        scale, zero = (np.array(item, np.float32).reshape(along) for item in (params.scale, params.zero_point))
        rounded[index] = np.frombuffer(((values - zero) * scale).astype(np.float32).tobytes(), np.uint8)
    return rounded


def _round_activations(model: ModelT, places: list[int]) -> None:
    """Rounds activations of the main graph to steps that an input of the model gives."""
    graph = interface_of(model).graph
    wanted = add_tensor(graph, _STEPS, [len(places)])
    steps = [add_tensor(graph, f"{_STEPS}_{place}", []) for place in range(len(places))]
    after: dict[int, list[OperatorT]] = {}
    rounded: dict[int, int] = {}
    for index, step in zip(places, steps, strict=True):
        shape, declared = numbers(graph.tensors[index].shape), graph.tensors[index].shapeSignature
        ratio, whole, result = (
            add_tensor(graph, f"{_STEPS}_{word}_{index}", shape) for word in ("ratio", "whole", "result")
        )
        for made in (ratio, whole, result):
            graph.tensors[made].shapeSignature = declared
        after[index] = [
            new_operator(model, "DIV", [index, step], [ratio], "DivOptions"),
            new_operator(model, "ROUND", [ratio], [whole]),
            new_operator(model, "MUL", [whole, step], [result], "MulOptions"),
        ]
        rounded[index] = result
    replaced = [new_operator(model, "UNPACK", [wanted], steps, "UnpackOptions", num=len(places), axis=0)]
    for index in numbers(graph.inputs):
        replaced += after.get(index, [])
    for operator in graph.operators:
        operator.inputs = [rounded.get(index, index) for index in numbers(operator.inputs)]
        replaced.append(operator)
        for index in numbers(operator.outputs):
            replaced += after.get(index, [])
    graph.operators = replaced
    graph.outputs = [rounded.get(index, index) for index in numbers(graph.outputs)]
    graph.inputs = [*numbers(graph.inputs), wanted]
    for signature in model.signatureDefs or []:
        if signature.outputs and graph is model.subgraphs[int(signature.subgraphIndex)]:
            for entry in signature.outputs:
                entry.tensorIndex = rounded.get(int(entry.tensorIndex), int(entry.tensorIndex))
            signature.inputs = [*(signature.inputs or []), new(TensorMapT, name=_STEPS.encode(), tensorIndex=wanted)]
