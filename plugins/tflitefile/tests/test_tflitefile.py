"""The reader of TFLite files against LiteRT's interpreter, which reads them with code of its own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from hub.spec import ModelUnreadable
from hub_tflitefile.interface import interface_of, quant_params, signature_def
from hub_tflitefile.schema import custom_operators, dtype_of, numbers, operator_counts, parse, text, to_bytes
from plugins.tflite.tests import tflite_graphs as graphs
from plugins.tflite.tests import tflite_handmade as handmade
from plugins.tflite.tests.test_tflite_to_onnx_quant import uint8_dense

MODELS = {
    **{f"{made.name} {number}": made.model for number, made in enumerate(handmade.good())},
    "classifier": graphs.classifier(),
    "batch matmul": graphs.classifier(matmul=True),
    "loop": graphs.loop(),
    "uint8": uint8_dense(),
}


def check(model: Any, content: bytes) -> None:
    """Names, shapes, types, scales, operators, inputs and outputs are as LiteRT tells them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # which would add nodes of their own
    other = Interpreter(model_content=content, experimental_op_resolver_type=kernels)
    graph, inputs, outputs = interface_of(model)
    names = Counter(detail["op_name"] for detail in other._get_ops_details())
    assert len(model.subgraphs) > 1 or operator_counts(model) == dict(sorted(names.items()))
    assert [index for _, index in inputs] == [detail["index"] for detail in other.get_input_details()]
    assert [index for _, index in outputs] == [detail["index"] for detail in other.get_output_details()]
    for detail in other.get_tensor_details():
        tensor = graph.tensors[detail["index"]]
        assert text(tensor.name) == detail["name"]
        assert numbers(tensor.shape) == detail["shape"].tolist()
        assert dtype_of(tensor).value == np.dtype(detail["dtype"]).name
        quant, found = quant_params(tensor), detail["quantization_parameters"]
        assert (list(quant.scale) if quant else []) == found["scales"].tolist()
        assert (list(quant.zero_point) if quant else []) == found["zero_points"].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_as_litert_reads_it(name: str) -> None:
    content = to_bytes(MODELS[name])
    check(parse(content), content)
    check(parse(content), to_bytes(parse(content)))


@pytest.mark.parametrize("field", ["name", "shape", "type"])
def test_the_check_sees_a_planted_fault(field: str) -> None:
    content = to_bytes(graphs.classifier())
    model = parse(content)
    setattr(model.subgraphs[0].tensors[0], field, {"name": b"other", "shape": [1, 2], "type": 2}[field])
    with pytest.raises(AssertionError):
        check(model, content)


def test_scales_in_a_tensor_that_is_not_there() -> None:
    model = uint8_dense()
    details = graphs.new("BlockwiseQuantizationT", blockSize=4, scales=99)
    model.subgraphs[0].tensors[0].quantization = graphs.new("QuantizationParametersT", detailsType=2, details=details)
    with pytest.raises(ModelUnreadable, match="tensor 99"):
        parse(to_bytes(model))


def test_an_old_number_of_a_custom_operator() -> None:
    """Files from before 2020 have the number in the byte that `deprecatedBuiltinCode` is now."""
    made = graphs.Graph()
    x, y = made.tensor("x", (1,)), made.tensor("y", (1,))
    made.add("CUSTOM", [x], [y])
    made.codes[0].customCode, made.codes[0].builtinCode = b"FlexErf", 0
    assert custom_operators(parse(to_bytes(made.model([x], [y])))) == ("FlexErf",)


def test_a_tensor_that_is_listed_twice_keeps_both_places() -> None:
    model = parse(to_bytes(graphs.classifier()))
    graph, _, ((_, last),) = interface_of(model)
    graph.outputs = [last, 0, last]
    model.signatureDefs = [signature_def([], [("first", last), ("other", 0), ("again", last)])]
    names = [name for name, _ in interface_of(parse(to_bytes(model))).outputs]
    assert names == ["first", "other", "again"]
