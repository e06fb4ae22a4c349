"""Runs ONNX models in ONNX Runtime."""

from __future__ import annotations

import difflib
import mmap
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hub.spec import (
    YES,
    DeviceMissing,
    Execution,
    ModelArtifact,
    ModelSummary,
    RuntimeOptions,
    StepError,
    Support,
    UnknownName,
    UnsupportedModel,
    Verdict,
    processor,
)
from hub_onnxruntime.operators import ORT_FORM, RUNTIME_FORM, is_runtime_operator
from hub_onnxruntime.ort_file import is_ort_file

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
_PROVIDER = "ExecutionProvider"
_FATAL_ONLY = 4  # ONNX Runtime's log severity; what goes wrong also arrives as an exception
# Element types that numpy has no name for: they travel as their raw bits.
_RAW_BITS = {"tensor(bfloat16)": ("uint16", "BFLOAT16")}


def runtime_failures() -> tuple[type[Exception], ...]:
    """Returns the exceptions with which ONNX Runtime refuses or fails; it has no common base that is documented."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidGraph", "InvalidArgument", "InvalidProtobuf", "NotImplemented", "NoSuchFile", "EPFail")
    return (*(getattr(state, name) for name in (*names, "RuntimeException")), RuntimeError, ValueError)


EXACT = "session.x64quantprecision"
"""ONNX Runtime's word. On x86 it turns s8 activations into u8, and multiplies u8 by s8 in pairs that saturate in 16
bits where there is no VNNI: a digits network has 4 dB with it. With `1` the weights become u8 there, which is exact."""

_SIGN = b"QuantizeLinear"
"""Name of an operator that every file has whose activations are integers, DynamicQuantizeLinear included."""

_FUSES_QDQ = ("QDQSelectorActionTransformer",)
"""Left out, integers are computed in float as ONNX defines them: for graphs that `EXACT` breaks (ONNX Runtime 1.32 adds
one initializer twice where two operators share weights)."""


def needs_exact(path: Path, content: bytes = b"") -> bool:
    """Whether a file's activations are integers, on a processor that saturates.

    Where weights alone are integers, nothing saturates, and `EXACT` breaks ONNX Runtime 1.32: it moves zero points.
    """
    if processor().has_integer_dot is not False:
        return False
    if content:
        return _SIGN in content
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return mapped.find(_SIGN) >= 0


def session_options(variant: str, threads: int, *, exact: bool = False) -> Any:
    """Returns deterministic CPU settings; `threads` of 0 means ONNX Runtime's default; see `EXACT`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, VARIANTS[variant])
    options.use_deterministic_compute = True
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    if exact:
        options.add_session_config_entry(EXACT, "1")
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


def provider_of(device: str) -> str:
    """Returns the execution provider for a device: `cpu`, or what the installed ONNX Runtime has besides.

    Raises:
        DeviceMissing: It has none of that name.
    """
    import onnxruntime as ort

    there = {name.removesuffix(_PROVIDER).lower(): name for name in ort.get_available_providers()}
    there.pop("azure", None)  # sends the model to a service: no device of this machine
    if device.lower() not in there:
        raise DeviceMissing(
            f"ONNX Runtime {ort.__version__} has no device {device!r} here; it has {', '.join(sorted(there))}",
            hint="Install the build of ONNX Runtime for that device, such as onnxruntime-gpu, in place of onnxruntime.",
        )
    return str(there[device.lower()])


class OrtSession:
    """An open model, `.onnx` or `.ort`. ONNX graphs hold no state between runs, so each run is independent.

    Args:
        path: The file, external data beside it.
        variant: One of `VARIANTS`; empty for the first. An `.ort` file is run as it was saved.
        threads: Intra-op threads; 0 for ONNX Runtime's default.
        content: The model to open in place of the file's, with the file's external data.
        device: `cpu`, or a provider of the installed ONNX Runtime in lower case: `cuda`.
        exact: Whether int8 is computed exactly on every processor (see `EXACT`), or as ONNX Runtime does by itself.

    Raises:
        DeviceMissing: `device` is not there.
        StepError: ONNX Runtime refuses the model.
    """

    def __init__(
        self,
        path: str | Path,
        variant: str = "",
        threads: int = 0,
        *,
        content: bytes = b"",
        device: str = "cpu",
        exact: bool = True,
    ) -> None:
        self.path, self.device = Path(path), device
        self.exact = exact and needs_exact(self.path, content)
        self.variant = variant or next(iter(VARIANTS))
        self.provider = provider_of(device)
        self.is_ort = not content and self.path.is_file() and is_ort_file(self.path)
        self._threads = threads
        self._session = self.opened(self.options(), content)
        self._types = {value.name: value.type for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]
        self._pool: ThreadPoolExecutor | None = None

    def options(self) -> Any:
        """Returns new session options as this session was opened with."""
        options = session_options(self.variant, self._threads, exact=self.exact)
        options.add_session_config_entry(_DATA_FOLDER, str(self.path.parent))
        options.add_session_config_entry("session.load_model_format", "ORT" if self.is_ort else "ONNX")
        return options

    def opened(self, options: Any, content: bytes = b"", disabled: Sequence[str] = ()) -> Any:
        """Opens the model in an `onnxruntime.InferenceSession` of its own.

        Args:
            options: Session options.
            content: The model in place of the file's.
            disabled: ONNX Runtime's names of optimizers to leave out.

        Raises:
            DeviceMissing: The provider is installed and does not start.
            StepError: ONNX Runtime refuses the model.
        """
        import onnxruntime as ort

        model, without = content or str(self.path), {"disabled_optimizers": list(disabled)} if disabled else {}
        try:
            session = ort.InferenceSession(model, options, providers=[self.provider], **without)
        except runtime_failures() as error:
            if self.exact and "AddInitializerWithOrtValue" in str(error) and not disabled:
                self.exact = False
                return self.opened(self.options(), content, _FUSES_QDQ)
            hint = "Run `hub inspect` on the file: it names operators and versions that a runtime may lack."
            message = f"ONNX Runtime {ort.__version__} refuses {self.path.name}: {error}"
            raise StepError(message, hint=hint) from error
        if self.provider not in session.get_providers():  # ONNX Runtime falls back to the CPU and says so in its log
            found = ", ".join(session.get_providers())
            message = f"{self.provider} is installed and did not start; ONNX Runtime would run on {found}"
            raise DeviceMissing(message, hint="Check its drivers and libraries, or use --device cpu.")
        return session

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

    def run_in(self, session: Any, feeds: Feeds) -> list[Any]:
        """Runs another `onnxruntime.InferenceSession` of the same model once; raises as `run`."""
        raw = any(kind in _RAW_BITS for kind in self._types.values())
        try:
            if not raw:
                return list(session.run(self.outputs, dict(feeds)))
            values = {name: self._value(name, array) for name, array in feeds.items()}
            return [_array(value) for value in session.run_with_ort_values(self.outputs, values)]
        except runtime_failures() as error:
            raise StepError(f"ONNX Runtime failed on {self.path.name}: {error}", hint=self._feed_hint()) from error

    def run(self, feeds: Feeds) -> Feeds:
        """Runs once: arrays by input name in, fresh arrays by output name out.

        Raises:
            StepError: A feed is missing, unknown, of the wrong type or shape, or a kernel failed.
        """
        return dict(zip(self.outputs, self.run_in(self._session, feeds), strict=True))

    def run_async(self, feeds: Feeds) -> Future[Feeds]:
        """Starts one run in a thread of its own and returns at once; ONNX Runtime runs side by side without a lock.

        Errors are raised by the future's `result`, as by `run`. `close` waits for the runs under way.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(thread_name_prefix="onnxruntime")
        return self._pool.submit(self.run, feeds)

    def intermediate(self, names: Sequence[str]) -> OrtSession:
        """Opens the same model with the tensors in `names` as its outputs, for comparison layer by layer.

        The graph runs unoptimized, because optimization removes and fuses tensors.

        Raises:
            UnknownName: The main graph has no such tensor.
            UnsupportedModel: The model is an `.ort` file, whose graph ONNX Runtime takes as it is.
        """
        from hub_onnxruntime.files import load_structure
        from hub_onnxruntime.graphs import defined_names

        if self.is_ort:
            message = f"{self.path.name} is an .ort file: ONNX Runtime opens it with the outputs that it was saved with"
            raise UnsupportedModel(message, hint="Look into the .onnx file that it was made from.")
        model = load_structure(self.path)
        check_tensors(names, defined_names(model.graph))
        del model.graph.output[:]
        for name in names:
            model.graph.output.add().name = name
        return OrtSession(self.path, "plain", self._threads, content=model.SerializeToString(), device=self.device)

    def execution(self, feeds: Feeds) -> Execution:
        """Runs a few times on one sample and says what is executed. See `hub_onnxruntime.execution`."""
        from hub_onnxruntime.execution import explain

        return explain(self, feeds)

    def close(self) -> None:
        """Releases the model."""
        if self._pool is not None:
            self._pool.shutdown()
        del self._session


def check_tensors(names: Sequence[str], there: set[str]) -> None:
    """Refuses names of tensors that a graph does not have.

    Raises:
        UnknownName: With the nearest name in its hint.
    """
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, sorted(there), 1)
            hint = f"Did you mean {near[0]!r}?" if near else "Tensors are the outputs of nodes: `hub inspect --layers`."
            raise UnknownName(f"the model has no tensor {name!r} among its {len(there)}", hint=hint)


class OrtRuntime:
    """ONNX Runtime, on the CPU in full float32, and int8 exactly unless `RuntimeOptions.precision` is `auto`.

    Other devices are the execution providers of the installed build.
    """

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
        exact = options.precision != "auto"
        return OrtSession(artifact.path, options.variant, options.threads, device=options.device, exact=exact)
