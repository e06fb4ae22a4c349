"""PyTorch to OpenVINO IR by OpenVINO's PyTorch frontend. Runs in a worker.

The source's reader has looked at the file before: one that would run code on loading does not come here unallowed.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import ConvertJob, Remark, StepError, TensorSpec, UnsupportedModel
from hub_openvino.convert.objects import from_object
from hub_openvino.convert.source_signature import ConvertedIr, SignaturePlaces, finish, type_name

if TYPE_CHECKING:
    import openvino

_HINT = "hub tries the way over ONNX next"
_LOAD_FAILURES = (RuntimeError, ValueError, KeyError, AttributeError, TypeError, AssertionError, OSError, EOFError)


def from_exported(job: ConvertJob) -> ConvertedIr:
    """Convert a `.pt2` file.

    Raises:
        StepError: torch cannot load it by itself, or the frontend fails.
        UnsupportedModel: It keeps state between calls, or holds an operator that the frontend lacks.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(job.source.path)
    except (*_LOAD_FAILURES, ModuleNotFoundError) as error:
        message = f"torch.export.load needs more than torch for {Path(job.source.path).name}: {error}"
        raise StepError(message, hint=_HINT) from error
    kept = program.graph_signature.buffers_to_mutate
    if kept:
        raise UnsupportedModel(f"the program writes to {', '.join(list(kept.values())[:3])}", hint=_HINT)
    # `x[:]` is written as `slice(x)`, and the frontend asks for the arguments that are left to their defaults.
    graph = program.graph_module.graph
    whole = [
        node
        for node in graph.nodes
        if node.target == torch.ops.aten.slice.Tensor and len(node.args) == 1 and not node.kwargs
    ]
    for node in whole:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    program.graph_module.recompile()
    model = from_object(program)
    signature = job.source.signature
    done = finish(model, signature, job.options, SignaturePlaces.by_position(model, signature))
    text = f"dropped {len(whole)} slices of the whole, which OpenVINO's frontend cannot read"
    said = (Remark("note", "slices-dropped", text),) if whole else ()
    return done._replace(notes=(*said, *done.notes))


def from_torchscript(job: ConvertJob) -> ConvertedIr:
    """Convert a TorchScript file; the shapes of its inputs are the request's.

    Raises:
        StepError: torch cannot load it, or the frontend fails.
        UnsupportedModel: It holds an operator that the frontend lacks.
    """
    import torch

    try:
        module = torch.jit.load(job.source.path, map_location="cpu").eval()
    except _LOAD_FAILURES as error:
        raise StepError(f"torch cannot load {Path(job.source.path).name}: {error}", hint=_HINT) from error
    signature = job.source.signature
    model = from_object(module, [_input(spec, job) for spec in signature.inputs])
    return finish(model, signature, job.options, SignaturePlaces.by_position(model, signature))


def _input(spec: TensorSpec, job: ConvertJob) -> tuple[openvino.PartialShape, openvino.Type]:
    import openvino

    given = job.options.shapes.get(spec.name)
    sizes = list(given) if given else [dim.size if dim.size is not None else -1 for dim in spec.shape]
    return openvino.PartialShape(sizes), getattr(openvino.Type, type_name(spec.dtype))
