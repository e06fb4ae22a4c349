"""ONNX to PyTorch: reads an ONNX graph and writes a torch.fx graph that torch.export accepts.

Everything that is known at import time (shapes, axes, sizes, conditions) is computed at import time, so the result
is a straight line of torch calls on tensors. Dimensions without a fixed size stay dynamic: sizes are computed in the
graph from the sizes of its inputs. What is not implemented is refused with `UnsupportedOperator`; nothing is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_onnxgraph import UnsupportedOperator

if TYPE_CHECKING:
    import onnx

__all__ = ["UnsupportedOperator", "import_onnx", "unsupported_operators"]


def import_onnx(model: onnx.ModelProto, folder: str = "") -> Any:
    """Translate an ONNX model into a torch.fx.GraphModule in evaluation mode.

    Inputs keep their order, dtype and layout, and their names as far as they are Python identifiers (the exact names
    are in `module.meta["onnx_inputs"]` and `["onnx_outputs"]`). One output is returned as a tensor, several as a tuple
    in the model's order. Initializers of float type become frozen parameters, everything else that is constant becomes
    a buffer, both named after the ONNX value, dots making submodules.

    Dynamic dimensions: `module.meta["onnx_dynamic"]` holds, for each input by its ONNX name, a dict from axis to the
    name of the dimension; empty for an input of fixed shape. Axes of the same name have the same size at run time. A
    dimension that the model does not name (or names `?`) gets a name of its own, made of the input's name and the
    axis; all names are Python identifiers. `module.meta["onnx_sizes"]` holds for each such name a size that the graph
    was checked at; use these for the example inputs of torch.export:

        dynamic_shapes = [{axis: Dim.DYNAMIC for axis in dims} for dims in module.meta["onnx_dynamic"].values()]

    Args:
        model: A checked model.
        folder: The folder of its file, for external data that is not loaded: each weight then is in memory once.

    Returns:
        The module. It computes in the model's own dtypes: int64 stays int64.

    Raises:
        UnsupportedOperator: A node, an attribute or a form of it is not implemented, or an input's shape is not fixed.
    """
    from hub_pytorch.onnx_importer.interpreter import TorchImporter

    return TorchImporter(model, folder).run()


def unsupported_operators(model: onnx.ModelProto) -> dict[str, str]:
    """Say which operators of a model cannot be imported, from the operator table alone.

    Cheap (torch is not imported, nothing is computed) and total (it never raises for a readable model). A model that
    passes can still be refused by `import_onnx` for a form that only shows in its values.

    Returns:
        Operator type, prefixed by its domain when that is not ONNX's, to the reason. Empty when all are known.
    """
    from hub_onnxgraph import standard
    from hub_pytorch.onnx_importer.registry import TABLE

    return standard.unsupported_operators(model, TABLE)
