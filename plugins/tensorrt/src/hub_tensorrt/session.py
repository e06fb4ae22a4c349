"""An open engine: buffers on the GPU, runs in a stream, and what the engine says of itself."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from hub.spec import ExecutedLayer, Execution, StepError, UnsupportedModel
from hub_tensorrt.cache import device_cache, keep
from hub_tensorrt.errors import failed
from hub_tensorrt.logger import make_log
from hub_tensorrt.plan import check_plan
from hub_tensorrt.report import EngineLayer, read_report

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from hub.spec.calibration import Feeds
    from hub_tensorrt.cuda import Gpu, Memory

    Array = npt.NDArray[np.generic]

TIMED_RUNS = 100
WARM_RUNS = 10


class Latency(NamedTuple):
    """Seconds of one run on the GPU, copies left out, by CUDA events.

    Attributes:
        median: Half of the runs are faster.
        p95: 95 of 100 are.
        runs: How many were measured.
    """

    median: float
    p95: float
    runs: int


class TensorrtSession:
    """An engine that is open on a GPU. Plans hold no state between runs.

    Args:
        plan: The file, with its side files.
        memory: The GPU's memory.
        gpu: The GPU, for the cache of kernels.

    Raises:
        StepError: The library refuses the plan, with its own diagnosis.
    """

    def __init__(self, plan: Path, memory: Memory, gpu: Gpu) -> None:
        head, self.report = check_plan(plan), read_report(plan)
        self._memory, self._gpu, self._library = memory, gpu, head.library
        module = self._library.load()
        self._module, self._log = module, make_log(module)
        content = plan.read_bytes()
        runtime = module.Runtime(self._log)
        if hasattr(runtime, "get_engine_validity"):
            _check_validity(module, runtime, content, plan.name)
        self._engine = runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise failed(f"{self._library.title} {module.__version__} does not open {plan.name}", self._log.errors)
        self._cache_file = device_cache("kernels", self._library, module.__version__, gpu)
        self._context, self._kernels = self._open_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = module.TensorIOMode.INPUT
        self.inputs = [name for name in names if self._engine.get_tensor_mode(name) == inputs]
        self.outputs = [name for name in names if name not in self.inputs]

    def _open_context(self) -> tuple[Any, Any]:
        """The execution context, and the cache of kernels finished on the device, where the library has one."""
        if not hasattr(self._engine, "create_runtime_config"):
            return self._engine.create_execution_context(), None
        runtime_config = self._engine.create_runtime_config()
        if not hasattr(runtime_config, "create_runtime_cache"):
            return self._engine.create_execution_context(runtime_config), None
        kernels = runtime_config.create_runtime_cache()
        with contextlib.suppress(OSError):
            kernels.deserialize(self._cache_file.read_bytes())
        runtime_config.set_runtime_cache(kernels)
        return self._engine.create_execution_context(runtime_config), kernels

    def run(self, feeds: Feeds) -> Feeds:
        """Run once: arrays by input name in, fresh arrays by output name out.

        Raises:
            UnsupportedModel: An output's size depends on values, which no buffer can be made for ahead.
            StepError: A shape lies outside the profile, or the GPU fails.
        """
        with self._bound(feeds) as (results, _):
            self._execute()
            for address, array in results.values():
                self._memory.download(address, array)
            self._memory.wait()
            return {name: array for name, (_, array) in results.items()}

    def latency(self, feeds: Feeds, runs: int = TIMED_RUNS) -> Latency:
        """Time runs on one sample, by events in the stream, the copies left out. Raises as `run`."""
        import numpy as np

        with self._bound(feeds):
            for _ in range(WARM_RUNS):
                self._execute()
            marks = [self._memory.mark()]
            for _ in range(runs):
                self._execute()
                marks.append(self._memory.mark())
            self._memory.wait()
        each = [self._memory.seconds(start, end) for start, end in itertools.pairwise(marks)]
        return Latency(float(np.median(each)), float(np.percentile(each, 95)), runs)

    @contextlib.contextmanager
    def _bound(self, feeds: Feeds) -> Iterator[tuple[dict[str, tuple[int, Array]], list[int]]]:
        """Buffers for one sample, bound to the context, with the inputs on their way into them."""
        import numpy as np

        held: list[int] = []
        try:
            kept = {}  # the stream reads these until it is waited for
            for name in self.inputs:
                kept[name] = np.ascontiguousarray(feeds[name])
                if not self._context.set_input_shape(name, tuple(kept[name].shape)):
                    shape = "x".join(map(str, kept[name].shape))
                    profile = self.report.profiles.get(name)
                    hint = f"{name} takes {profile} (smallest / tuned for / largest)" if profile else "see hub inspect"
                    raise StepError(f"the engine does not take {name} of {shape}", hint=hint)
                held.append(self._bind(name, kept[name].nbytes))
                self._memory.upload(kept[name], held[-1])
            results: dict[str, tuple[int, Array]] = {}
            for name in self.outputs:
                sizes = tuple(self._context.get_tensor_shape(name))
                if min(sizes, default=0) < 0:
                    message = f"the size of the output {name} depends on values: {sizes}"
                    raise UnsupportedModel(message, hint="end the model before the operator that decides it")
                array = np.empty(sizes, self._module.nptype(self._engine.get_tensor_dtype(name)))
                held.append(self._bind(name, array.nbytes))
                results[name] = (held[-1], array)
            yield results, held
        finally:
            self._memory.wait()
            for address in held:
                self._memory.release(address)

    def _bind(self, name: str, size: int) -> int:
        address = self._memory.reserve(size)
        self._context.set_tensor_address(name, address)
        return address

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            raise failed(f"{self._library.title} failed in a run", self._log.errors)

    def execution(self, feeds: Feeds) -> Execution:
        """Say what the engine executes, by its own inspector, and how long a run takes on the GPU."""
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._module.LayerInformationFormat.JSON)
        told = {layer.name: layer for layer in self.report.layers}
        layers = tuple(inspected(text, told, self._gpu.name))
        time = self.latency(feeds)
        median, p95 = (f"{1e3 * seconds:.3f} ms" for seconds in time[:2])
        return Execution(
            runtime="tensorrt",
            version=f"{self._library.title} {self._module.__version__}",
            device=self._gpu.name,
            settings={**self.report.settings, "latency p50": median, "latency p95": p95, "runs timed": str(time.runs)},
            layers=layers,
        )

    def close(self) -> None:
        """Release the engine, and keep the kernels that were finished on this GPU for the next session."""
        if self._kernels is not None:
            keep(self._cache_file, bytes(self._kernels.serialize()))
        del self._context, self._engine
        self._memory.close()


def _check_validity(module: ModuleType, runtime: Any, content: bytes, name: str) -> None:
    """Ask the library whether the plan fits this machine before it is deserialized.

    Raises:
        StepError: With every reason that it gives.
    """
    validity, reasons = runtime.get_engine_validity(content)
    if validity == module.EngineValidity.INVALID:
        members = module.EngineInvalidityDiagnostics.__members__
        bits = int(reasons)
        said = [word.lower().replace("_", " ") for word, member in members.items() if bits & int(member)]
        raise StepError(
            f"{name} is not valid on this machine: {', '.join(said) or 'no reason is given'}",
            hint="build it again here from its .precision.onnx",
        )


def inspected(text: str, told: dict[str, EngineLayer], device: str) -> Iterator[ExecutedLayer]:
    """Layers of the engine inspector's document, with what the builder reported of each.

    Args:
        text: JSON of the library: an object with `Layers`, each an object with a `Name`, or a name alone.
        told: Layers of the builder's report by name.
        device: The GPU.
    """
    try:
        found = json.loads(text).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        found = []
    for item in found:
        fields = item if isinstance(item, dict) else {"Name": str(item)}
        name = str(fields.get("Name", ""))
        known = told.get(name)
        yield ExecutedLayer(
            name=name,
            operator=str(fields.get("LayerType", known.kind if known else "")),
            precision=known.precision if known else "unknown",
            device=device,
            kernel=str(fields.get("TacticName", "")),
            covers=known.covers if known else (),
        )
