"""Runs ONNX models in ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hub.spec import YES, ModelArtifact, ModelSummary, RuntimeOptions, StepError, Support, Verdict
from hub_onnxruntime.operators import ORT_FORM, RUNTIME_FORM, is_runtime_operator

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds

# Variant -> name of ONNX Runtime's graph optimization level. The first is the default.
VARIANTS = {
    "optimized": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "plain": "ORT_DISABLE_ALL",
}
_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
OPTIMIZED_DATA = "session.optimized_model_external_initializers_file_name"
_FATAL_ONLY = 4  # ONNX Runtime's log severity; what goes wrong also arrives as an exception
# Element types that numpy has no name for: they travel as their raw bits.
_RAW_BITS = {"tensor(bfloat16)": ("uint16", "BFLOAT16")}


def runtime_failures() -> tuple[type[Exception], ...]:
    """Returns the exceptions with which ONNX Runtime refuses or fails; it has no common base that is documented."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidGraph", "InvalidArgument", "InvalidProtobuf", "NotImplemented", "NoSuchFile", "EPFail")
    return (*(getattr(state, name) for name in (*names, "RuntimeException")), RuntimeError, ValueError)


def session_options(variant: str, threads: int) -> Any:
    """Returns deterministic CPU settings; `threads` of 0 means ONNX Runtime's default."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, VARIANTS[variant])
    options.use_deterministic_compute = True
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    return options


def _array(value: Any) -> Any:
    """Returns an OrtValue as an array of its own; a type without a numpy name as its raw bits (uint16)."""
    import ctypes

    import numpy as np

    if value.data_type() not in _RAW_BITS:
        return value.numpy()
    count = int(np.prod(value.shape()))
    bits = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    return np.array(bits, dtype=np.uint16).reshape(value.shape())


class OrtSession:
    """An open model. ONNX graphs hold no state between runs, so each run is independent.

    Args:
        path: The `.onnx` file, external data beside it.
        variant: One of `VARIANTS`; empty for the first.
        threads: Intra-op threads; 0 for ONNX Runtime's default.
        content: The model to open in place of the file's, with the file's external data.

    Raises:
        StepError: ONNX Runtime refuses the model.
    """

    def __init__(self, path: str | Path, variant: str = "", threads: int = 0, *, content: bytes = b"") -> None:
        import onnxruntime as ort

        self.path = Path(path)
        self._variant = variant or next(iter(VARIANTS))
        self._threads = threads
        options = session_options(self._variant, threads)
        options.add_session_config_entry(_DATA_FOLDER, str(self.path.parent))
        try:
            self._session = ort.InferenceSession(content or str(path), options, providers=["CPUExecutionProvider"])
        except runtime_failures() as error:
            hint = "Run `hub inspect` on the file: it names operators and versions that a runtime may lack."
            raise StepError(f"ONNX Runtime {ort.__version__} refuses {self.path.name}: {error}", hint=hint) from error
        self._types = {value.name: value.type for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    def _value(self, name: str, array: Any) -> Any:
        import numpy as np
        import onnxruntime as ort
        from onnx import TensorProto

        if self._types[name] not in _RAW_BITS:
            return ort.OrtValue.ortvalue_from_numpy(np.require(array, requirements=["C_CONTIGUOUS"]))
        bits, onnx_name = _RAW_BITS[self._types[name]]
        raw = np.ascontiguousarray(array).view(bits)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, getattr(TensorProto, onnx_name))

    def _feed_hint(self) -> str:
        takes = ", ".join(f"{name}: {kind}" for name, kind in self._types.items())
        inputs = self._session.get_inputs()
        flags = [value.name for value in inputs if not value.shape and "int" in value.type]
        freeze = " ".join(f"--constant {name}=VALUE" for name in flags)
        advice = f" Freeze scalar inputs that choose what is computed ({freeze}), or give real inputs." if flags else ""
        return f"It takes {takes}.{advice}"

    def _run_plain(self, feeds: Feeds) -> list[Any]:
        results = self._session.run(self.outputs, dict(feeds))
        return list(results)

    def _run_values(self, feeds: Feeds) -> list[Any]:
        values = {name: self._value(name, array) for name, array in feeds.items()}
        return [_array(value) for value in self._session.run_with_ort_values(self.outputs, values)]

    def run(self, feeds: Feeds) -> Feeds:
        """Runs once: arrays by input name in, fresh arrays by output name out.

        Raises:
            StepError: A feed is missing, unknown, of the wrong type or shape, or a kernel failed.
        """
        raw = any(kind in _RAW_BITS for kind in self._types.values())
        try:
            results = self._run_values(feeds) if raw else self._run_plain(feeds)
        except runtime_failures() as error:
            raise StepError(f"ONNX Runtime failed on {self.path.name}: {error}", hint=self._feed_hint()) from error
        return dict(zip(self.outputs, results, strict=True))

    def intermediate(self, names: Sequence[str]) -> OrtSession:
        """Opens the same model with the tensors in `names` as its outputs, for comparison layer by layer.

        The graph runs unoptimized, because optimization removes and fuses tensors.
        """
        from hub_onnxruntime.files import load_structure

        model = load_structure(self.path)
        del model.graph.output[:]
        for name in names:
            model.graph.output.add().name = name
        return OrtSession(self.path, "plain", self._threads, content=model.SerializeToString())

    def _optimized_graph(self) -> Any:
        import onnx
        import onnxruntime as ort

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            options = session_options(self._variant, self._threads)
            options.optimized_model_filepath = str(path)
            options.add_session_config_entry(OPTIMIZED_DATA, "optimized.data")  # one file ends at 2 GiB
            ort.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
            return onnx.load(path, load_external_data=False).graph

    def placement(self) -> dict[str, str]:
        """Returns, for each node that is left after optimization, the provider that runs it."""
        provider = self._session.get_providers()[0]
        return {node.name or node.output[0]: provider for node in self._optimized_graph().node}

    def fusions(self) -> dict[str, int]:
        """Returns the operators outside the standard domain that optimization made, with their count."""
        nodes = [node for node in self._optimized_graph().node if node.domain not in ("", "ai.onnx")]
        return dict(Counter(f"{node.domain}::{node.op_type}" for node in nodes))

    def close(self) -> None:
        """Releases the model."""
        del self._session


class OrtRuntime:
    """ONNX Runtime on the CPU, in full float32."""

    name = "onnxruntime"
    formats = ("onnx",)
    targets: Mapping[str, tuple[str, str]] = MappingProxyType(
        {".onnx": ("onnx", RUNTIME_FORM), ".ort": ("onnx", ORT_FORM)}
    )
    variants = ("optimized",)
    requires = ("onnxruntime>=1.20", "onnx>=1.17")
    process = "onnx"

    def check(self, summary: ModelSummary) -> Verdict:
        """Refuses operators that neither ONNX nor ONNX Runtime defines."""
        foreign = [name for name in summary.custom_operators if not is_runtime_operator(name)]
        if foreign:
            return Verdict(support=Support.NEVER, reason=f"ONNX Runtime has no operator {', '.join(foreign)}")
        return YES

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> OrtSession:
        """Opens a model. See `OrtSession`."""
        return OrtSession(artifact.path, options.variant, options.threads)
