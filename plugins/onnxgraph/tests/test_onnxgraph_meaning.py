"""What importers share of the standard's meaning, against ONNX's own reference where it has one."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from hub_onnxgraph import Refused
from hub_onnxgraph.loops import ScanAxes
from hub_onnxgraph.recurrence import Recurrence
from hub_onnxgraph.resize import ResizedAxis, ResizeRule, matrix, places
from hub_onnxgraph.table import Attributes, Operator
from hub_onnxgraph.windows import Convolution, Pool, Transposed, WindowForm, whole_pads


def test_a_group_stands_for_its_fields() -> None:
    def pooled(x: object, *, form: Pool, p: int = 2) -> tuple[object, Pool, int]:
        return x, form, p

    row = Operator.of("Pooled", pooled)
    assert row.mismatch([True], ["p"]) == "attribute kernel_shape is missing"
    assert row.mismatch([True], ["kernel_shape", "strides", "other"]) == "attribute other is not implemented"
    _, form, p = row([1], {"kernel_shape": [2], "p": 3})
    assert isinstance(form, Attributes)
    assert (form.kernel_shape, form.auto_pad, p) == ([2], "NOTSET", 3)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("size", "kernel", "stride"), [(5, 3, 2), (6, 3, 2), (7, 2, 3), (4, 4, 1), (3, 1, 2)])
def test_same_keeps_the_size_divided_by_the_stride(auto_pad: str, size: int, kernel: int, stride: int) -> None:
    form = WindowForm(auto_pad=auto_pad, strides=[stride])
    begin, end = form.explicit_pads(form.sliding([kernel]), lambda: [size])
    assert (size + begin + end - kernel) // stride + 1 == -(-size // stride)
    assert (end - begin if auto_pad == "SAME_UPPER" else begin - end) in {0, 1}


def test_contradictions_are_refused() -> None:
    with pytest.raises(Refused, match="pads together with auto_pad SAME_UPPER"):
        WindowForm(auto_pad="SAME_UPPER", pads=[1, 1]).explicit_pads(WindowForm().sliding([3]), lambda: [5])
    with pytest.raises(Refused, match=r"kernel_shape \[2\] with weights of \[3\]"):
        Convolution(kernel_shape=[2]).of([3])
    with pytest.raises(Refused, match=r"kernel_shape \[3\] over 2 spatial axes"):
        Pool(kernel_shape=[3]).of(2)
    with pytest.raises(Refused, match="activations that differ"):
        Recurrence(direction="bidirectional", activations=["Tanh", "Relu"]).functions("RNN", ("tanh", "relu"))
    with pytest.raises(Refused, match="hidden_size 4 with 5 units"):
        Recurrence(hidden_size=4).units([1, 20, 5])


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("size", range(4, 12))
def test_whole_windows_are_those_of_the_standard(size: int, ceil: int) -> None:
    """Counted by ONNX's own shape inference."""
    form = Pool(kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=ceil)
    window = form.of(1)
    begin, end = whole_pads([size], [1, 1], window, ceil=ceil)
    x, y = (
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", [1, 1, size]), ("y", None))
    )
    node = onnx.helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=ceil)
    opset = [onnx.helper.make_opsetid("", 22)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]), opset_imports=opset)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    count = inferred.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    assert (size + begin + end - 3) / 2 + 1 == count


def test_a_crop_reaches_the_wanted_size() -> None:
    form = Transposed(strides=[2], output_shape=[9], output_padding=[1])
    (begin, end), extra = form.crop(form.of([3]), lambda: [5])
    assert 2 * (5 - 1) + 3 + extra[0] - begin - end == 9


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
def test_resizing_is_that_of_the_reference(mode: str, coordinates: str) -> None:
    x = np.linspace(0, 1, 7, dtype=np.float32) ** 2
    node = onnx.helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode=mode, coordinate_transformation_mode=coordinates
    )
    wanted = ReferenceEvaluator(node).run(None, {"x": x, "sizes": np.asarray([10])})[0]
    axis = ResizedAxis(0, 7, 10, 10 / 7)
    rule = ResizeRule(mode=mode, coordinate_transformation_mode=coordinates)
    got = x[places(axis, rule)] if mode == "nearest" else matrix(axis, rule) @ x
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_scan_inputs_and_outputs_have_their_axes() -> None:
    form = ScanAxes(num_scan_inputs=2, scan_input_axes=[1, 0], scan_output_directions=[1])
    states, sources = form.parted(["state", "a", "b"])
    assert states == ["state"]
    assert sources == [("a", 1, False), ("b", 0, False)]
    assert form.joined(["out"]) == [("out", 0, True)]
