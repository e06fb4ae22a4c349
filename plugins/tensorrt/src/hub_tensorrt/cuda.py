"""The GPU: which are here, told by the driver alone; and memory on one, through NVIDIA's cuda-python."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hub.spec import DependencyMissing, StepError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_NAME_BYTES = 256


class Gpu(NamedTuple):
    """A GPU.

    Attributes:
        name: `NVIDIA L4`.
        capability: Compute capability, 89 for 8.9.
        driver: The CUDA version that the driver is for, 13020 for 13.2.
    """

    name: str
    capability: int
    driver: int


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver lets this process use; none where there is no driver."""
    for name in _DRIVERS:
        try:
            return _asked(ctypes.CDLL(name))
        except OSError:
            continue
    return ()


def _asked(driver: ctypes.CDLL) -> tuple[Gpu, ...]:
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    driver.cuDriverGetVersion(ctypes.byref(version))
    found = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(_NAME_BYTES)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, _NAME_BYTES, device)
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        found.append(Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value, version.value))
    return tuple(found)


class Memory(Protocol):
    """What a session needs of the GPU; addresses and handles are integers."""

    stream: int

    def reserve(self, size: int) -> int:
        """Device memory of some bytes; returns its address."""

    def release(self, address: int) -> None:
        """Give it back."""

    def upload(self, array: Array, address: int) -> None:
        """Copy to the device, in the stream."""

    def download(self, address: int, array: Array) -> None:
        """Copy from the device, in the stream; the array is filled when `wait` returns."""

    def mark(self) -> object:
        """An event in the stream."""

    def seconds(self, start: object, end: object) -> float:
        """Time between two events, once both are over."""

    def wait(self) -> None:
        """Wait for the stream."""

    def close(self) -> None:
        """Release the stream."""


class CudaMemory:
    """Memory, a stream and events by `cuda.bindings.runtime`.

    Raises:
        DependencyMissing: cuda-python is not installed.
        StepError: CUDA refuses.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise DependencyMissing(
                f"engines are run through cuda-python: {error}", hint="pip install cuda-bindings"
            ) from error
        self._cuda = runtime
        self.stream = int(self._done(runtime.cudaStreamCreate()))

    def _done(self, answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise StepError(f"CUDA failed: {status}", hint="`nvidia-smi` shows what the GPU is doing")
        return values[0] if values else None

    def reserve(self, size: int) -> int:
        """See `Memory`."""
        return int(self._done(self._cuda.cudaMalloc(max(1, size))))

    def release(self, address: int) -> None:
        """See `Memory`."""
        self._done(self._cuda.cudaFree(address))

    def upload(self, array: Array, address: int) -> None:
        """See `Memory`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._done(self._cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.stream))

    def download(self, address: int, array: Array) -> None:
        """See `Memory`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._done(self._cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self.stream))

    def mark(self) -> object:
        """See `Memory`."""
        event: object = self._done(self._cuda.cudaEventCreate())
        self._done(self._cuda.cudaEventRecord(event, self.stream))
        return event

    def seconds(self, start: object, end: object) -> float:
        """See `Memory`."""
        return float(self._done(self._cuda.cudaEventElapsedTime(start, end))) / 1e3

    def wait(self) -> None:
        """See `Memory`."""
        self._done(self._cuda.cudaStreamSynchronize(self.stream))

    def close(self) -> None:
        """See `Memory`."""
        self._done(self._cuda.cudaStreamDestroy(self.stream))
