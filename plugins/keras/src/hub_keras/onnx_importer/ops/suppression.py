"""NonMaxSuppression by TensorFlow's operation, which no Keras file holds: only where the model is converted at once."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from hub_keras.onnx_importer.lazy import keras, np
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, fixed, graph_of, scalar, value_of
from hub_onnxgraph import refuse_if

if TYPE_CHECKING:
    from collections.abc import Callable

    from keras import KerasTensor

MAX_CALLS = 512
"""TensorFlow's operation takes one image and one class: more than so many are not written."""


@op("NonMaxSuppression", 10, 11)
def non_max_suppression(
    boxes: Item,
    scores: Item,
    most: Item | None = None,
    iou: Item | None = None,
    least: Item | None = None,
    *,
    center_point_box: int = 0,
) -> Item:
    """(image, class, box) of the boxes that stay: image by image, class by class, the highest score first."""
    graph = graph_of(boxes, scores)
    refuse_if(graph.saved, "Keras has no operation whose result has a size that depends on values")
    images, classes, count = (fixed(scores, axis) for axis in range(3))
    refuse_if(images * classes > MAX_CALLS, f"{images} images of {classes} classes, {MAX_CALLS} in all are written")
    kept = 0 if most is None else min(int(scalar(most, "the most boxes of a class")), count)
    if not kept:
        return np.zeros((0, 3), "int64")
    bounds = [default if item is None else float(scalar(item, "a threshold")) for item, default in (
        (iou, 0.0), (least, float("-inf")))]  # fmt: skip
    # At 1 the next float is no overlap: TensorFlow refuses such a bound, and TFLite gave one of two equal boxes twice.
    refuse_if(bounds[0] >= 1, f"overlaps up to {bounds[0]:g} stay, TensorFlow's operation takes bounds below 1")
    made = _operation()(kept, (bounds[0], bounds[1]), centred=bool(center_point_box))
    made.name = graph.unique(graph.current)
    return KerasValue(graph, made(value_of(graph, boxes).plain(), value_of(graph, scores).plain()), (0, 1))


@cache
def _operation() -> Callable[..., keras.Operation]:
    """The class, made where Keras is there."""

    class Suppression(keras.Operation):  # type: ignore[misc] # Keras ships no types
        """Takes boxes [images, count, 4] and scores [images, classes, count]; gives int64 [rows, 3]."""

        def __init__(self, kept: int, bounds: tuple[float, float], *, centred: bool) -> None:
            super().__init__()
            self.kept, self.bounds, self.centred = kept, bounds, centred

        def call(self, boxes: object, scores: object) -> object:
            return _suppressed(boxes, scores, self.kept, self.bounds, centred=self.centred)

        def compute_output_spec(self, boxes: KerasTensor, scores: KerasTensor) -> KerasTensor:
            del boxes, scores
            return keras.KerasTensor((None, 3), dtype="int64")

    return Suppression


def _suppressed(boxes: Any, scores: Any, kept: int, bounds: tuple[float, float], *, centred: bool) -> Any:
    """Padded rows of every image and class, and of these the ones that hold a box."""
    import tensorflow as tf

    if centred:
        middle, half = boxes[..., :2], boxes[..., 2:] * 0.5
        boxes = tf.concat([middle - half, middle + half], -1)
    # TFLite drops a box at an overlap that equals the bound, ONNX above it: the next float makes them one.
    overlap = np.nextafter(np.float32(bounds[0]), np.float32(np.inf))
    rows, held = [], []
    for image in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            places, _, count = tf.raw_ops.NonMaxSuppressionV5(
                boxes=boxes[image], scores=scores[image, kind], max_output_size=kept, iou_threshold=overlap,
                score_threshold=np.float32(bounds[1]), soft_nms_sigma=np.float32(0), pad_to_max_output_size=True,
            )  # fmt: skip
            which = tf.constant([[image, kind]] * kept, tf.int32)
            rows.append(tf.concat([which, tf.reshape(places, [kept, 1])], 1))
            held.append(tf.range(kept) < count)
    chosen = tf.gather_nd(tf.concat(rows, 0), tf.where(tf.concat(held, 0)))
    return tf.cast(chosen, tf.int64)
