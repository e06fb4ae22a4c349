"""Runs IRs in OpenVINO."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import (
    Execution,
    ModelArtifact,
    Runtime,
    RuntimeOptions,
    StepError,
    UnknownName,
    UsageError,
)
from hub_openvino.failures import FAILURES, reason_of
from hub_openvino.identify import FORMAT
from hub_openvino.numerics import DYNAMIC_SETTING
from hub_openvino.silence import silence_telemetry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import openvino

    from hub.spec.calibration import Feeds
    from hub_openvino.devices import Settings

    Array = npt.NDArray[np.generic]

NAME = "openvino"
DYNAMIC = DYNAMIC_SETTING.split("/")


class OpenvinoSession:
    """One compiled model. Results are copies.

    Each run is independent, variables are reset before it, unless the options say `keep_state`: then runs are one
    sequence on one infer request.

    Args:
        path: The `.xml` file, its `.bin` beside it.
        options: Device, threads, precision.
        only: Tensors inside the model to give in place of its outputs; empty for its outputs.

    Raises:
        ModelUnreadable: The file is damaged.
        ExternalDataError: The `.bin` file is missing or truncated.
        DeviceMissing: The device is not there.
        UnsupportedModel: The device does not compute in the precision that was asked for.
        UnknownName: The model has no tensor of a name in `only`.
        StepError: OpenVINO cannot compile the model.
    """

    def __init__(self, path: str | Path, options: RuntimeOptions, only: Sequence[str] = ()) -> None:
        import openvino

        from hub_openvino.border import DTYPES, input_names, output_names
        from hub_openvino.describe import read_model
        from hub_openvino.devices import check_device, settings_of

        self.path, self._options = Path(path), options
        core = openvino.Core()
        self.device = check_device(core, options.device)
        self.settings = settings_of(core, self.device, options)
        model = read_model(self.path)
        if "EXECUTION_MODE_HINT" in self.settings and model.has_rt_info(DYNAMIC):  # pinned to what the file says
            self.settings[DYNAMIC[-1]] = model.get_rt_info(DYNAMIC).astype(str)
        self.inputs = input_names(model)
        self.outputs = list(only) or output_names(model)
        self.model = exposing(model, only) if only else model
        if only and self.device == "CPU":
            self.settings["LP_TRANSFORMS_MODE"] = "NO"  # as the file says: kernels for integers change what is inside
        self._types = [port.element_type for port in self.model.inputs]
        self._dtypes = [DTYPES.get(kind.get_type_name()) for kind in self._types]
        self.compiled = self._compile(core, {})
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        self._pool: ThreadPoolExecutor | None = None

    def _compile(self, core: openvino.Core, more: Settings) -> openvino.CompiledModel:
        import openvino

        try:
            return core.compile_model(self.model, self.device, self.settings | more)
        except FAILURES as error:
            lacks = unsupported(core, self.model, self.device)
            names = f"; {self.device} has no {', '.join(lacks)}" if lacks else ""
            message = f"OpenVINO {openvino.__version__} cannot compile {self.path.name} for {self.device}"
            hint = "`hub inspect` lists the model's operators and types"
            raise StepError(f"{message}: {reason_of(error)}{names}", hint=hint) from error

    def run(self, feeds: Feeds) -> Feeds:
        """Runs once: arrays by input name in, fresh arrays by output name out.

        Raises:
            UsageError: An input is missing, unknown, or of another type.
            StepError: A kernel failed.
        """
        with self._request() as request:
            return self.run_on(request, feeds)

    def run_on(self, request: openvino.InferRequest, feeds: Feeds) -> Feeds:
        """Runs once on a given request. Raises as `run`."""
        tensors = self.tensors(feeds)
        try:
            if not self._options.keep_state:
                request.reset_state()
            request.infer(tensors, share_inputs=True)
        except FAILURES as error:
            takes = ", ".join(
                f"{n}: {p.element_type.get_type_name()}{p.partial_shape}"
                for n, p in zip(self.inputs, self.model.inputs, strict=True)
            )
            hint = f"it takes {takes}"
            raise StepError(f"OpenVINO failed on {self.path.name}: {reason_of(error)}", hint=hint) from error
        return {name: _array(request.get_output_tensor(place)) for place, name in enumerate(self.outputs)}

    def reset_state(self) -> None:
        """Sets all variables to their first values; see `hub.spec.KeepsState`."""
        with self._request() as request:
            request.reset_state()

    def tensors(self, feeds: Feeds) -> dict[int, openvino.Tensor]:
        """Arrays as OpenVINO's tensors, by place. Raises UsageError as `run`."""
        if set(feeds) != set(self.inputs):
            raise UsageError(f"the model takes {sorted(self.inputs)}, given were {sorted(feeds)}")
        return {place: self._tensor(place, feeds[name]) for place, name in enumerate(self.inputs)}

    def _tensor(self, place: int, array: Array) -> openvino.Tensor:
        import numpy as np
        import openvino

        kind, dtype = self._types[place], self._dtypes[place]
        own = np.require(array, requirements=["C_CONTIGUOUS"]).reshape(np.shape(array))
        if dtype is not None and own.dtype.name == dtype.value and dtype.value != "bfloat16":
            return openvino.Tensor(own, shared_memory=own.size > 0)
        if kind.get_type_name() == "bf16" and own.dtype.itemsize == 2:  # noqa: PLR2004 - raw bits, two bytes each
            return openvino.Tensor(own.view(np.uint16), openvino.Shape(own.shape), kind)
        message = f"input {self.inputs[place]} is {kind.get_type_name()}, given was {own.dtype.name}"
        raise UsageError(message, hint="`hub inspect` shows what the model takes")

    @contextmanager
    def _request(self) -> Iterator[openvino.InferRequest]:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self.compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.put(request)

    def run_async(self, feeds: Feeds) -> Future[Feeds]:
        """Starts one run on an infer request of its own and returns at once; see `hub.spec.RunsAsync`.

        As many run at a time as OpenVINO calls optimal for this device, and two at least, so that one prepares its
        inputs while another computes.

        Raises:
            UsageError: The session keeps state, so that its runs are one sequence.
        """
        if self._options.keep_state:
            raise UsageError("a session that keeps state runs one after the other", hint="use run, not run_async")
        if self._pool is None:
            wanted = int(self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            self._pool = ThreadPoolExecutor(max_workers=max(2, min(wanted, os.cpu_count() or 2)))
        return self._pool.submit(self.run, feeds)

    def intermediate(self, names: Sequence[str]) -> OpenvinoSession:
        """Opens the same model with the tensors in `names` as its outputs; see `hub.spec.ShowsIntermediates`.

        A name is a tensor's, or a layer's (its first output; `name:1` for its second). What is rounded is computed as
        the file says, in float: integer kernels would put the rounding elsewhere.
        """
        return OpenvinoSession(self.path, self._options, names)

    def execution(self, feeds: Feeds) -> Execution:
        """Says how the model is executed; see `hub_openvino.execution`."""
        import openvino

        from hub_openvino.execution import ProfiledModel, execution_of

        compiled = self._compile(openvino.Core(), {"PERF_COUNT": True})
        return execution_of(ProfiledModel(self.path, self.device, compiled, self.run_on), feeds)

    def close(self) -> None:
        """Releases the model."""
        if self._pool is not None:
            self._pool.shutdown()
        self._idle = queue.SimpleQueue()
        self.compiled = self.model = None


def _array(tensor: openvino.Tensor) -> Array:
    """A copy of a tensor; bfloat16, which numpy has no name for, as its raw bits (uint16)."""
    import numpy as np

    data = tensor.data
    return np.array(data.view(np.uint16) if tensor.element_type.get_type_name() == "bf16" else data)


def unsupported(core: openvino.Core, model: openvino.Model, device: str) -> list[str]:
    """Types of the layers that a device has no kernel for; empty where it cannot tell."""
    try:
        able = core.query_model(model, device)
    except FAILURES:
        return []
    return sorted({op.get_type_name() for op in model.get_ops() if op.get_friendly_name() not in able})


def exposing(model: openvino.Model, names: Sequence[str]) -> openvino.Model:
    """The model with tensors inside it as its outputs.

    Raises:
        UnknownName: There is no such tensor.
    """
    import openvino
    from openvino import opset13

    found = tensors_of(model)
    unknown = [name for name in names if name not in found]
    if unknown:
        raise UnknownName(
            f"the model has no tensor {', '.join(unknown)}", hint="`hub inspect --layers` lists the layers"
        )
    # A FakeQuantize that is fused into the sum before it computes from what an output has overwritten (seen in 2026.4);
    # where what it rounds is an output too, behind those that are asked for, it is not fused.
    rounding = (found[name].get_node() for name in names)
    rounded = [node.input_value(0) for node in rounding if node.get_type_name() == "FakeQuantize"]
    results = [opset13.result(port) for port in (*(found[name] for name in names), *rounded)]
    return openvino.Model(results, model.get_sinks(), model.get_parameters(), model.friendly_name)


def tensors_of(model: openvino.Model) -> dict[str, openvino.Output]:
    """Every tensor of the main graph by its names and by its layer's."""
    found: dict[str, openvino.Output] = {}
    layers: dict[str, openvino.Output] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Result":
            continue
        for number, port in enumerate(node.outputs()):
            found.update(dict.fromkeys(sorted(port.names), port))
            layers[f"{node.friendly_name}:{number}"] = port
            layers.setdefault(node.friendly_name, port)
    return layers | found


class OpenvinoRuntime(Runtime):
    """OpenVINO on the devices that this machine has; the CPU unless another is asked for."""

    name = NAME
    formats = (FORMAT,)
    requires = ("openvino>=2026.4",)
    process = "openvino"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> OpenvinoSession:
        """Opens a file; see `OpenvinoSession`."""
        silence_telemetry()
        return OpenvinoSession(artifact.path, options)
