"""Reads what there is to know of an ONNX file without running it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from hub.spec import DescribeJob, Dim, DType, Format, ModelSummary, Numerics, Signature, State, TensorSpec
from hub_onnxgraph.graphs import all_nodes, all_tensors, opset_of, with_inferred_shapes
from hub_onnxgraph.inside import InsideOnnx
from hub_onnxgraph.numerics import layers_of, numerics_of, operator_key
from hub_onnxgraph.signature import TensorInfo, inputs_of, outputs_of
from hub_onnxruntime.files import external_files, load_structure
from hub_onnxruntime.findings import DTYPES, FINDERS, ORT_FINDERS, external_findings, size_findings
from hub_onnxruntime.float32 import other_floats
from hub_onnxruntime.large import forget_data, size_on_disk
from hub_onnxruntime.operators import MIN_OPSET, ORT_FORM, RUNTIME_FORM, custom_operators, foreign_operators
from hub_onnxruntime.ort_file import load_ort, ort_version
from hub_onnxruntime.resized import RESIZED, cut_zip_maps, open_sizes, resized_findings, zip_map_findings
from hub_onnxruntime.stale import correct_outputs, stale_findings

if TYPE_CHECKING:
    import onnx


def tensor_spec(info: TensorInfo) -> TensorSpec:
    """Makes the contract's record of one input or output; an unknown rank becomes one symbolic dim `<name>_rank`."""
    dtype = DType(info.dtype) if info.dtype in DTYPES else DType.UNKNOWN
    shape = (f"{info.name}_rank",) if info.shape is None else info.shape
    return TensorSpec(name=info.name, dtype=dtype, shape=tuple(Dim.of(dim) for dim in shape))


def signature_of(graph: onnx.GraphProto) -> Signature:
    """Returns the inputs that must be fed and the outputs, in the file's order."""
    return Signature(
        inputs=tuple(map(tensor_spec, inputs_of(graph))),
        outputs=tuple(map(tensor_spec, outputs_of(graph))),
    )


def parameter_count(model: onnx.ModelProto) -> int:
    """Returns the number of elements of every stored tensor: initializers, and constants inside nodes."""
    return sum(math.prod(tensor.dims) for tensor in all_tensors(model))


def _versions(model: onnx.ModelProto) -> dict[str, str]:
    versions = {f"opset {entry.domain or 'ai.onnx'}": str(entry.version) for entry in model.opset_import}
    versions["ir"] = str(model.ir_version)
    if model.producer_name:
        versions["producer"] = f"{model.producer_name} {model.producer_version}".strip()
    return versions


def is_static_form(model: onnx.ModelProto) -> bool:
    """Whether every input has a fixed shape; control flow that only a run decides may be in it."""
    return all(info.is_static for info in inputs_of(model.graph))


def is_prepared_form(model: onnx.ModelProto) -> bool:
    """Whether importers can start from it: a recent opset, standard operators only, no functions, every rank known.

    Open dims, `If`, `Loop` and `Scan` may be in it. Other floats than float32 are left at the border only.
    """
    recent = opset_of(model) >= MIN_OPSET and not model.functions
    ranked = all(info.shape is not None for info in inputs_of(model.graph))
    return recent and ranked and not custom_operators(model) and not other_floats(model)


def is_runtime_form(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime knows every operator: those of the standard, and its own."""
    return not foreign_operators(model)


def summarize(path: Path, form: str = "", sizes: Mapping[str, Sequence[int]] | None = None) -> ModelSummary:
    """Reads an ONNX file.

    Args:
        path: The file.
        form: The form it is expected to be in; it is checked, not believed.
        sizes: Input -> shape that overrides the declared one: sizes that it contradicts are read as open.

    Raises:
        HubError: As `hub_onnxruntime.files.load_structure` and `external_path`.
    """
    bare = load_structure(path)
    outside = external_files(bare, path.parent)
    files, findings = [path, *outside], external_findings(bare) + size_findings(size_on_disk(path, outside))
    cut = cut_zip_maps(bare)
    resized = open_sizes(bare, sizes or {})
    forget_data(bare)
    stale = [] if resized else correct_outputs(bare)
    model = with_inferred_shapes(bare)
    forms = {"static": is_static_form, "prepared": is_prepared_form, RUNTIME_FORM: is_runtime_form}
    holds = forms.get(form)
    found = RESIZED if resized or cut else form if holds and holds(model) else ""
    return ModelSummary(
        state=State(format="onnx", numerics=numerics_of(model), form=found),
        signature=signature_of(model.graph),
        operators=dict(sorted(Counter(map(operator_key, all_nodes(model))).items())),
        custom_operators=foreign_operators(model) if found == RUNTIME_FORM else custom_operators(model),
        parameters=parameter_count(model),
        size_bytes=sum(file.stat().st_size for file in files),
        files=tuple(str(file.resolve()) for file in files),
        versions=_versions(model),
        findings=(
            *resized_findings(resized),
            *zip_map_findings(cut),
            *stale_findings(stale),
            *(finding for finder in FINDERS for finding in finder(model)),
            *findings,
        ),
        layers=layers_of(model),
    )


def summarize_ort(path: Path) -> ModelSummary:
    """Reads an `.ort` file.

    Raises:
        HubError: As `hub_onnxruntime.ort_file.load_ort`.
    """
    model = load_ort(path)
    # An `.ort` file imports every operator set that its writer knew.
    used = {node.domain or "ai.onnx" for node in all_nodes(model)}
    return ModelSummary(
        state=State(format="onnx", numerics=numerics_of(model), form=ORT_FORM),
        signature=signature_of(model.graph),
        operators=dict(sorted(Counter(map(operator_key, all_nodes(model))).items())),
        custom_operators=foreign_operators(model),
        parameters=parameter_count(model),
        size_bytes=path.stat().st_size,
        files=(str(path.resolve()),),
        versions={
            key: text
            for key, text in _versions(model).items()
            if key.removeprefix("opset ") in {*used, "ir", "producer"}
        }
        | {"ort format": ort_version(path)},
        findings=tuple(finding for finder in ORT_FINDERS for finding in finder(model)),
        layers=layers_of(model),
    )


class OnnxFormat(InsideOnnx, Format):
    """The reader of ONNX files, and of their `.ort` form."""

    name = "onnx"
    suffixes = (".onnx",)
    written_forms = MappingProxyType({".ort": ORT_FORM})
    numerics = tuple(Numerics)
    process = "onnx"

    def describe(self, job: DescribeJob) -> ModelSummary:
        """Reads a model. See `summarize` and `summarize_ort`."""
        if job.form == ORT_FORM:
            return summarize_ort(job.file)
        return summarize(job.file, job.form, job.shapes if job.overrides else None)
