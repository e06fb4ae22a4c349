"""Inputs that are drawn, for models of which there are no samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hub_onnxgraph.signature import inputs_of

if TYPE_CHECKING:
    import onnx

    from hub.spec.calibration import Feeds

# Sizes for open dims, tried in turn: the leading dim's, another's, and whether every other one gets its own multiple
# (height and width must not be mistaken for one another; dims without names may have to agree).
_SIZES = (
    (2, 32, True), (3, 64, True), (2, 32, False), (3, 16, False), (1, 64, False), (2, 8, False), (1, 224, False),
    (1, 2, False), (1, 1, False),
)  # fmt: skip


def sizes_to_try(model: onnx.ModelProto) -> list[dict[str, int]]:
    """Returns sizes for the open dims of a model's inputs, the likeliest to fit first; `[{}]` for a static model."""
    shapes = [info.shape or () for info in inputs_of(model.graph)]
    leading = {shape[0] for shape in shapes if shape and isinstance(shape[0], str)}
    symbols = list(dict.fromkeys(dim for shape in shapes for dim in shape if isinstance(dim, str)))
    others = [symbol for symbol in symbols if symbol not in leading]
    tried = [
        dict.fromkeys(leading, batch) | {name: size * (1 + apart * i) for i, name in enumerate(others)}
        for batch, size, apart in _SIZES
    ]
    return [dict(item) for item in dict.fromkeys(tuple(sorted(sizes.items())) for sizes in tried)]


def random_feeds(model: onnx.ModelProto, seed: int, sizes: Mapping[str, int] | None = None) -> Feeds:
    """Returns inputs: normal floats, integers 0 and 1 (valid as token, index and flag), booleans.

    Args:
        model: Its inputs' ranks are known.
        seed: For the values.
        sizes: Symbol -> size for each open dim.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    feeds: Feeds = {}
    for info in inputs_of(model.graph):
        shape = tuple(dim if isinstance(dim, int) else (sizes or {})[dim] for dim in info.shape or ())
        if "float" in info.dtype:
            feeds[info.name] = generator.standard_normal(shape).astype(info.dtype)
        else:
            feeds[info.name] = generator.integers(0, 2, shape).astype(info.dtype)
    return feeds
