"""ONNX -> TFLite with operations of TensorFlow's that no Keras file holds: the imported model is converted at once."""

from __future__ import annotations

from hub.spec import (
    STATIC,
    YES,
    Accepts,
    ConvertJob,
    ConvertOptions,
    Edge,
    Gives,
    ModelSummary,
    StepOutput,
    Support,
    Verdict,
)
from hub_keras import tf_convert
from hub_keras.from_onnx import notes_of
from hub_keras.load import TENSORFLOW
from hub_keras.loaded import LoadedModel
from hub_keras.static import static_inputs

_NATIVE = frozenset({"NonMaxSuppression"})


def takes_native(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse a model that the importer to Keras files takes as well."""
    del options
    if _NATIVE & summary.operators.keys():
        return YES
    return Verdict(support=Support.NEVER, reason="nothing in it needs an operation of TensorFlow's own")


def _convert(job: ConvertJob) -> StepOutput:
    """Import the model, and convert it as it stands in memory.

    Raises:
        UnsupportedModel: It holds operators, or forms of them, that the importer does not know.
        StepError: TensorFlow's converter refused.
    """
    import onnx

    from hub_keras.load import import_keras
    from hub_keras.onnx_importer import import_onnx

    import_keras("tensorflow")
    model = onnx.load(job.source.path)
    imported = import_onnx(model, saved=False)
    signature = job.source.signature
    loaded = LoadedModel(
        call=lambda tensors: _listed(imported.model(tensors if len(tensors) > 1 else tensors[0])),
        signature=signature,
        operators={},
        model=imported.model,
        parameters=imported.model.count_params(),
    )
    static = static_inputs(signature, ConvertOptions())
    notes = tf_convert.write_tflite(loaded, static, job, tf_convert.from_frozen)
    return StepOutput(notes=(*notes_of(imported, len(model.graph.node)), *notes))


def _listed(results: object) -> list[object]:
    return list(results) if isinstance(results, list | tuple) else [results]


NATIVE = Edge(
    id="keras.tflite-onnx",
    accepts=(Accepts(format="onnx", form=STATIC),),
    gives=Gives(format="tflite"),
    convert=_convert,
    check=takes_native,
    requires=("keras>=3.11", TENSORFLOW, "onnx>=1.17", "hub-onnxgraph", "ai-edge-litert>=2.1"),
    process="keras-tensorflow",
    cost=2.9,  # behind the importers, which refuse at once what only this edge takes
    title="ONNX importer in TensorFlow's converter",
)
"""ONNX to TFLite, for what only TensorFlow's own operations express."""
