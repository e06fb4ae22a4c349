"""Runs ONNX models in ONNX Runtime."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import DeviceMissing, Numerics, StepError, UnknownName, UnsupportedModel
from hub_onnxgraph.graphs import defined_names
from hub_onnxquant.runtime_options import (
    UNSOUND_FP8,
    VARIANTS,
    exact_setting,
    provider_of,
    quantizes_to_fp8,
    runtime_failures,
    session_options,
)
from hub_onnxruntime.files import load_structure
from hub_onnxruntime.ort_file import is_ort_file

if TYPE_CHECKING:
    import onnxruntime as ort

    from hub.spec.calibration import Feeds
    from hub_onnxgraph.graphs import Array

_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
# Element types that numpy has no name for: they travel as their raw bits.
_RAW_BITS = {"tensor(bfloat16)": ("uint16", "BFLOAT16")}


_FUSES_QDQ = ("QDQSelectorActionTransformer",)
"""Left out, integers are computed in float as ONNX defines them: for graphs that `EXACT` breaks (ONNX Runtime 1.32 adds
one initializer twice where two operators share weights)."""


def _array(value: ort.OrtValue) -> Array:
    """Returns an OrtValue as an array of its own; a type without a numpy name as its raw bits (uint16)."""
    import ctypes

    import numpy as np

    if value.data_type() not in _RAW_BITS:
        array: Array = value.numpy()
        return array
    count = int(np.prod(value.shape()))
    bits = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    return np.array(bits, dtype=np.uint16).reshape(value.shape())


class OrtSession:
    """An open model, `.onnx` or `.ort`. ONNX graphs hold no state between runs, so each run is independent.

    Args:
        path: The file, external data beside it.
        variant: One of `VARIANTS`; empty for the first. An `.ort` file is run as it was saved.
        threads: Intra-op threads; 0 for ONNX Runtime's default.
        content: The model to open in place of the file's, with the file's external data.
        device: `cpu`, or a provider of the installed ONNX Runtime in lower case: `cuda`.
        exact: Whether int8 is computed exactly on every processor (see `exact_setting`), or as by default.

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
        self.variant = variant or next(iter(VARIANTS))
        self.provider = provider_of(device)
        self.is_ort = not content and self.path.is_file() and is_ort_file(self.path)
        self.exact_setting = "" if self.is_ort else exact_setting(self.path, content)
        self.exact = exact and bool(self.exact_setting)
        self._threads = threads
        self.widened = False  # whether bfloat16 is computed in float32 and rounded after every operator
        self._unsound = UNSOUND_FP8 if not self.is_ort and quantizes_to_fp8(self.path, content) else ()
        self._session = self.opened(self.options(), content)
        self._types = {value.name: value.type for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]
        self._pool: ThreadPoolExecutor | None = None

    def options(self) -> ort.SessionOptions:
        """Returns new session options as this session was opened with."""
        options = session_options(self.variant, self._threads, exact=self.exact_setting if self.exact else "")
        options.add_session_config_entry(_DATA_FOLDER, str(self.path.parent))
        options.add_session_config_entry("session.load_model_format", "ORT" if self.is_ort else "ONNX")
        return options

    def opened(
        self, options: ort.SessionOptions, content: bytes = b"", disabled: Sequence[str] = ()
    ) -> ort.InferenceSession:
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

        left_out = [*self._unsound, *disabled]
        model, without = content or str(self.path), {"disabled_optimizers": left_out} if left_out else {}
        try:
            session = ort.InferenceSession(model, options, providers=[self.provider], **without)
        except runtime_failures() as error:
            if not content and not self.is_ort and "Could not find an implementation" in str(error):
                narrow = self._widened()
                if narrow:
                    return self.opened(options, narrow, disabled)
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

    def _widened(self) -> bytes:
        """The model with its bfloat16 operators between casts; empty where it has none."""
        from hub_onnxgraph.graphs import with_inferred_shapes
        from hub_onnxquant.bfloat16 import widened
        from hub_onnxruntime.describe import summarize

        if summarize(self.path).state.numerics is not Numerics.BF16:
            return b""
        self.widened = True
        return widened(with_inferred_shapes(load_structure(self.path)))

    def _value(self, name: str, array: Array) -> ort.OrtValue:
        import numpy as np
        import onnxruntime as ort
        from onnx import TensorProto

        if self._types[name] not in _RAW_BITS:
            return ort.OrtValue.ortvalue_from_numpy(np.require(array, requirements=["C_CONTIGUOUS"]))
        bits, onnx_name = _RAW_BITS[self._types[name]]
        raw = np.ascontiguousarray(array).view(bits)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, getattr(TensorProto, onnx_name))

    def run_in(self, session: ort.InferenceSession, feeds: Feeds) -> list[Array]:
        """Runs another `onnxruntime.InferenceSession` of the same model once; raises as `run`."""
        raw = any(kind in _RAW_BITS for kind in self._types.values())
        try:
            if not raw:
                return list(session.run(self.outputs, dict(feeds)))
            values = {name: self._value(name, array) for name, array in feeds.items()}
            return [_array(value) for value in session.run_with_ort_values(self.outputs, values)]
        except runtime_failures() as error:
            takes = ", ".join(f"{name}: {kind}" for name, kind in self._types.items())
            inputs = self._session.get_inputs()
            flags = [value.name for value in inputs if not value.shape and "int" in value.type]
            freeze = " ".join(f"--constant {name}=VALUE" for name in flags)
            advice = (
                f" Freeze scalar inputs that choose what is computed ({freeze}), or give real inputs." if flags else ""
            )
            raise StepError(
                f"ONNX Runtime failed on {self.path.name}: {error}", hint=f"It takes {takes}.{advice}"
            ) from error

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
        if self.is_ort:
            message = f"{self.path.name} is an .ort file: ONNX Runtime opens it with the outputs that it was saved with"
            raise UnsupportedModel(message, hint="Look into the .onnx file that it was made from.")
        model = load_structure(self.path)
        check_tensors(names, defined_names(model.graph))
        del model.graph.output[:]
        for name in names:
            model.graph.output.add().name = name
        return OrtSession(self.path, "plain", self._threads, content=model.SerializeToString(), device=self.device)

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
