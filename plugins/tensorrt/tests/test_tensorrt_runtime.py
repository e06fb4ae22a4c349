"""Whether a plan runs on this machine, and how it would be run: engine and driver are played, as no GPU is here.

What really happens on a GPU is tested in `test_tensorrt_gpu.py`, which is not run without one.
"""
# ruff: noqa: N802 - the driver's own names

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from hub.spec import (
    DependencyMissing,
    DeviceMissing,
    ModelArtifact,
    ModelSummary,
    RuntimeOptions,
    Signature,
    State,
    StepError,
    UnsupportedModel,
)
from hub_tensorrt import build, cuda, session
from hub_tensorrt.cache import device_cache, keep
from hub_tensorrt.cuda import CudaMemory, Gpu
from hub_tensorrt.libraries import RTX, TENSORRT, Library
from hub_tensorrt.report import EngineLayer, EngineProfile, EngineReport
from hub_tensorrt.runtime import TensorrtRuntime
from hub_tensorrt.session import TensorrtSession, inspected

L4 = Gpu(name="NVIDIA L4", capability=89, driver=13020)
Array = npt.NDArray[Any]


def plan_of(version: str, built_for: str, module: str = "tensorrt_rtx") -> ModelSummary:
    return ModelSummary(
        state=State(format="tensorrt"),
        signature=Signature(inputs=(), outputs=()),
        versions={module: version, "built for": built_for},
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Play a GPU and an installed library."""

    def play(*gpus: Gpu, version: str = "1.7.1.116") -> None:
        monkeypatch.setattr(cuda, "gpus", lambda: gpus)
        monkeypatch.setattr(Library, "version", version)
        monkeypatch.setattr(Library, "is_here", bool(version))

    return play


def test_without_a_gpu_the_verdict_says_what_to_do(gpu: Callable[..., None]) -> None:
    gpu()
    verdict = TensorrtRuntime().runs_here(plan_of("1.7.1.116", "sm89"))
    assert not verdict
    assert "no NVIDIA GPU" in verdict.reason
    assert ".precision.onnx" in verdict.hint
    artifact = ModelArtifact(
        path="m.engine",
        state=State(format="tensorrt"),
        signature=Signature(inputs=(), outputs=()),
        sha256="",
        size_bytes=0,
    )
    with pytest.raises(DeviceMissing, match="no NVIDIA GPU"):
        TensorrtRuntime().open(artifact, RuntimeOptions())
    with pytest.raises(DeviceMissing, match="not on npu"):
        TensorrtRuntime().open(artifact, RuntimeOptions(device="npu"))


@pytest.mark.parametrize(
    ("summary", "version", "reason"),
    [
        (plan_of("1.7.1.116", "sm80 sm89"), "1.7.1.116", ""),
        (plan_of("1.7.1.116", "sm80 sm86"), "1.7.1.116", "built for sm80, sm86, and the GPU here, NVIDIA L4, is sm89"),
        (plan_of("1.7.0.99", "sm89"), "1.7.1.116", "is of TensorRT-RTX 1.7.0.99, and 1.7.1.116 is installed"),
        (plan_of("1.7.1.116", "sm89"), "", "TensorRT-RTX, which built the plan, is not installed"),
        (plan_of("10.16.1.11", "the building GPU", "tensorrt"), "10.16.1.11", ""),
        (None, "", ""),
    ],
)
def test_a_plan_of_another_gpu_or_version_is_refused_with_the_reason(
    gpu: Callable[..., None], summary: ModelSummary | None, version: str, reason: str
) -> None:
    gpu(L4, version=version)
    verdict = TensorrtRuntime().runs_here(summary)
    assert bool(verdict) is not bool(reason)
    assert reason in verdict.reason
    assert bool(verdict.hint) is bool(reason)


def test_the_driver_alone_says_which_gpus_are_here() -> None:
    class Driver:
        """A libcuda with two devices."""

        def cuInit(self, _: int) -> int:
            return 0

        def cuDeviceGetCount(self, count: Any) -> int:
            count._obj.value = 2
            return 0

        def cuDriverGetVersion(self, version: Any) -> int:
            version._obj.value = 13020
            return 0

        def cuDeviceGet(self, device: Any, index: int) -> int:
            device._obj.value = index
            return 0

        def cuDeviceGetName(self, name: Any, _: int, device: Any) -> int:
            name.value = f"GPU {device.value}".encode()
            return 0

        def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
            value._obj.value = {75: 8, 76: 6 + 3 * device.value}[attribute]
            return 0

    driver: Any = Driver()
    assert cuda._asked(driver) == (Gpu("GPU 0", 86, 13020), Gpu("GPU 1", 89, 13020))
    driver.cuInit = lambda _: 100  # CUDA_ERROR_NO_DEVICE
    assert cuda._asked(driver) == ()


def test_cuda_python_without_a_driver_is_a_readable_error() -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed")
    if cuda.gpus():
        pytest.skip("a GPU is here")
    with pytest.raises(StepError, match="CUDA failed: "):
        CudaMemory()


def test_cuda_python_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(DependencyMissing) as caught:
        CudaMemory()
    assert caught.value.hint == "pip install cuda-bindings"


class Playing:
    """Memory that is the host's, with a clock that ticks a millisecond at each event."""

    def __init__(self) -> None:
        self.stream = 7
        self.held: dict[int, bytearray] = {}
        self.waits = self.marks = 0
        self.closed = False

    def reserve(self, size: int) -> int:
        self.held[100 + len(self.held)] = bytearray(size)
        return 99 + len(self.held)

    def release(self, address: int) -> None:
        self.held[address] = bytearray()

    def upload(self, array: Array, address: int) -> None:
        self.held[address][:] = array.tobytes()

    def download(self, address: int, array: Array) -> None:
        array[...] = np.frombuffer(bytes(self.held[address]), array.dtype).reshape(array.shape)

    def mark(self) -> object:
        self.marks += 1
        return self.marks

    def seconds(self, start: object, end: object) -> float:
        return 1e-3 * (int(str(end)) - int(str(start)))

    def wait(self) -> None:
        self.waits += 1

    def close(self) -> None:
        self.closed = True


class Context:
    """Doubles what goes in, up to a batch of 4."""

    def __init__(self, memory: Playing) -> None:
        self.memory, self.places, self.shape = memory, dict[str, int](), (0,)
        self.fails = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        self.shape = shape
        return shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "y"
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.places[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        given = np.frombuffer(bytes(self.memory.held[self.places["x"]]), np.float32)
        self.memory.held[self.places["y"]][:] = (2 * given).tobytes()
        return not self.fails


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TensorrtSession, Playing, Context]:
    """A session on a played library, whose engine has one input and one output."""
    monkeypatch.setenv("HUB_CACHE_DIR", str(tmp_path / "cache"))
    memory = Playing()
    context = Context(memory)
    kernels = SimpleNamespace(serialize=lambda: b"kernels", deserialize=lambda content: content)
    told = json.dumps({"Layers": [{"Name": "a", "LayerType": "gemm", "TacticName": "t"}, "b"]})
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: "xy"[index],
        get_tensor_mode=lambda name: "in" if name == "x" else "out",
        get_tensor_dtype=lambda _: "FLOAT",
        create_runtime_config=lambda: SimpleNamespace(create_runtime_cache=lambda: kernels, set_runtime_cache=id),
        create_execution_context=lambda _: context,
        create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda _: told),
    )

    class Logger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    module: Any = SimpleNamespace(
        __version__="1.7.1.116",
        ILogger=Logger,
        TensorIOMode=SimpleNamespace(INPUT="in"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        nptype=lambda _: np.float32,
        Runtime=lambda _: SimpleNamespace(deserialize_cuda_engine=lambda content: engine if content else None),
    )
    profile = EngineProfile(smallest=(1, 3), best=(4, 3), largest=(4, 3))
    report = EngineReport(
        report_version=1,
        library="tensorrt_rtx",
        library_version="1.7.1.116",
        plan_sha256="",
        precision_sha256="",
        numerics=State(format="").numerics,
        signature=Signature(inputs=(), outputs=()),
        profiles={"x": profile},
        layers=(EngineLayer(name="a", kind="gemm", precision="int8", covers=("MatMul",)),),
    )
    monkeypatch.setattr(Library, "load", lambda _: module)
    monkeypatch.setattr(session, "check_plan", lambda _: SimpleNamespace(library=RTX))
    monkeypatch.setattr(session, "read_report", lambda _: report)
    plan = tmp_path / "m.engine"
    plan.write_bytes(b"plan")
    return TensorrtSession(plan, memory, L4), memory, context


def test_a_run_binds_buffers_and_gives_them_back(opened: tuple[TensorrtSession, Playing, Context]) -> None:
    engine, memory, context = opened
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    first = engine.run({"x": x})["y"]
    np.testing.assert_array_equal(first, 2 * x)
    np.testing.assert_array_equal(engine.run({"x": -x.T.copy().T[:1]})["y"], -2 * x[:1])
    np.testing.assert_array_equal(first, 2 * x)  # a copy of its own
    assert not any(memory.held.values())
    with pytest.raises(StepError, match="does not take x of 5x3") as caught:
        engine.run({"x": np.zeros((5, 3), np.float32)})
    assert "x takes 1x3 / 4x3 / 4x3" in caught.value.hint
    context.fails = True
    with pytest.raises(StepError, match="TensorRT-RTX failed in a run"):
        engine.run({"x": x})
    assert not any(memory.held.values())


def test_a_size_that_values_decide_is_refused(
    opened: tuple[TensorrtSession, Playing, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, memory, context = opened
    monkeypatch.setattr(context, "get_tensor_shape", lambda _: (-1, 3))
    with pytest.raises(UnsupportedModel, match="depends on values"):
        engine.run({"x": np.zeros((1, 3), np.float32)})
    assert not any(memory.held.values())


def test_latency_is_between_events_and_the_inspector_is_asked(opened: tuple[TensorrtSession, Playing, Context]) -> None:
    engine, memory, _ = opened
    feeds = {"x": np.zeros((1, 3), np.float32)}
    assert engine.latency(feeds, runs=20) == pytest.approx((1e-3, 1e-3, 20))
    assert memory.marks == 21
    said = engine.execution(feeds)
    assert (said.device, said.version) == ("NVIDIA L4", "TensorRT-RTX 1.7.1.116")
    assert said.settings["latency p50"] == "1.000 ms"
    assert [(layer.operator, layer.precision, layer.covers) for layer in said.layers] == [
        ("gemm", "int8", ("MatMul",)),
        ("", "unknown", ()),
    ]


def test_finished_kernels_are_kept_by_gpu_driver_and_version(
    opened: tuple[TensorrtSession, Playing, Context], tmp_path: Path
) -> None:
    engine, memory, _ = opened
    engine.close()
    assert memory.closed
    kept = tmp_path / "cache" / "kernels" / "tensorrt_rtx-1.7.1.116-nvidia-l4-sm89-cuda13020.bin"
    assert kept.read_bytes() == b"kernels"
    others = (L4._replace(driver=12040), L4._replace(capability=86), L4._replace(name="NVIDIA T4"))
    places = {device_cache("kernels", RTX, "1.7.1.116", gpu) for gpu in others}
    assert (
        len(
            {kept, *places, device_cache("kernels", RTX, "1.8", L4), device_cache("kernels", TENSORRT, "1.7.1.116", L4)}
        )
        == 6
    )


def test_what_a_builder_timed_is_kept_for_its_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HUB_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(build, "gpus", lambda: (L4,))
    given: list[bytes] = []
    strict: list[bool] = []
    config: Any = SimpleNamespace(
        create_timing_cache=lambda content: given.append(content) or SimpleNamespace(serialize=lambda: b"timed"),
        set_timing_cache=lambda _, ignore_mismatch: strict.append(ignore_mismatch),
    )
    for _ in range(2):
        timings = build._set_timings(config, TENSORRT, "10.16.1.11")
        keep(timings.file, timings.cache.serialize())
    assert given == [b"", b"timed"]
    assert not any(strict)
    assert timings.file.name == "tensorrt-10.16.1.11-nvidia-l4-sm89-cuda13020.bin"


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"Layers": []}', '"text"'])
def test_an_inspector_that_tells_nothing_is_no_defect(text: str) -> None:
    assert not list(inspected(text, {}, "GPU"))


def test_a_plan_that_is_not_valid_here_says_every_reason() -> None:
    class Bits(int):
        """A member of the library's enumeration."""

    module: Any = SimpleNamespace(
        EngineValidity=SimpleNamespace(INVALID=2),
        EngineInvalidityDiagnostics=SimpleNamespace(
            __members__={"VERSION_MISMATCH": Bits(1), "UNSUPPORTED_CC": Bits(2), "OLD_CUDA_DRIVER": Bits(4)}
        ),
    )
    runtime: Any = SimpleNamespace(get_engine_validity=lambda _: (2, 6))
    with pytest.raises(StepError, match="unsupported cc, old cuda driver"):
        session._check_validity(module, runtime, b"", "m.engine")
    assert msgspec.json.encode(EngineLayer(name="a", kind="k", precision="p"))
