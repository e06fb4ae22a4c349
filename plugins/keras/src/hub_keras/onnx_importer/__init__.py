"""ONNX to Keras 3: reads an ONNX graph and writes a functional model of built-in layers and keras.ops.

What is known at import time is computed at import time. Pictures are channels-last inside; each tensor knows the order
its axes are stored in, so that a transpose is written only where elements have to move. What is not implemented is
refused with `UnsupportedOperator`; nothing is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph import UnsupportedOperator

if TYPE_CHECKING:
    import onnx

    from hub_keras.onnx_importer.importer import Imported

__all__ = ["UnsupportedOperator", "import_onnx", "unsupported_operators"]


def import_onnx(model: onnx.ModelProto, io_layout: str = "", *, saved: bool = True) -> Imported:
    """Translate an ONNX model into a Keras functional model.

    Args:
        model: A checked model with its external data loaded. Open dimensions become None.
        io_layout: `nhwc` gives inputs and outputs of rank 4 that layout; else they keep the model's own.
        saved: Whether the model goes into a Keras file; one that does not may hold TensorFlow's own operations.

    Returns:
        The model, with the names its inputs and outputs have in it.

    Raises:
        UnsupportedOperator: A node, an attribute or a form of it is not implemented.
    """
    from hub_keras.onnx_importer.importer import KerasImporter

    return KerasImporter(model, io_layout, saved=saved).run()


def unsupported_operators(model: onnx.ModelProto) -> dict[str, str]:
    """Say which operators of a model cannot be imported, from the operator table alone: no framework is imported.

    Returns:
        Operator type, prefixed by its domain when that is not ONNX's, to the reason. Empty when all are known.
    """
    from hub_keras.onnx_importer.registry import TABLE
    from hub_onnxgraph import standard

    return standard.unsupported_operators(model, TABLE)
