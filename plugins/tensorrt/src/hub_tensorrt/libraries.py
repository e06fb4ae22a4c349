"""The two libraries, TensorRT and TensorRT-RTX: what they are called, and every point in which they differ."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType
from typing import NamedTuple

from hub.spec import DependencyMissing


class Library(NamedTuple):
    """One library.

    Attributes:
        module: What is imported.
        title: What a person calls it.
        distributions: Names that it is installed under, the preferred first.
        least: The least version.
        magic: First bytes of its plans.
        ahead: Whether it builds without a device, for the compute capabilities that it is told.
        capabilities: Those that it takes; empty where it builds for the device that is there.
        usual: Those that it builds for where nobody says.
    """

    module: str
    title: str
    distributions: tuple[str, ...]
    least: str
    magic: bytes
    ahead: bool
    capabilities: tuple[int, ...] = ()
    usual: tuple[int, ...] = ()

    @property
    def requires(self) -> str:
        """A requirement line of alternatives."""
        return " | ".join(f"{name}>={self.least}" for name in self.distributions)

    @property
    def distribution(self) -> str:
        """The one that is installed; the preferred one where none is."""
        return next((name for name in self.distributions if _version(name)), self.distributions[0])

    @property
    def install(self) -> str:
        """What installs it."""
        return f"pip install '{self.distributions[0]}>={self.least}'"

    @property
    def is_here(self) -> bool:
        """Whether it can be imported, as far as that can be told without doing it."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str:
        """Of what is installed; empty where nothing is."""
        return _version(self.distribution)

    def load(self) -> ModuleType:
        """Import it.

        Raises:
            DependencyMissing: It is not installed, or does not load here.
        """
        try:
            return importlib.import_module(self.module)
        except (ImportError, OSError, RuntimeError) as error:
            raise DependencyMissing(f"{self.title} cannot be imported: {error}", hint=self.install) from error


RTX = Library(
    module="tensorrt_rtx",
    title="TensorRT-RTX",
    distributions=("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    least="1.7.1",
    magic=b"vtrt",
    ahead=True,
    capabilities=(75, 80, 86, 89, 120, 121),
    usual=(80, 86, 89, 120),
)
"""Builds anywhere, finishes its kernels on the GPU; 9.0 and 10.0 are none of its capabilities."""

TENSORRT = Library(
    module="tensorrt",
    title="TensorRT",
    distributions=("tensorrt-cu13", "tensorrt-cu12", "tensorrt"),
    least="10.13",
    magic=b"ftrt",
    ahead=False,
)
"""Builds on the device, for the device."""

LIBRARIES = (TENSORRT, RTX)
FP8_FROM = 89
"""The first compute capability with fp8."""


def library_of(magic: bytes) -> Library | None:
    """The library whose plans begin with some bytes."""
    return next((library for library in LIBRARIES if magic.startswith(library.magic)), None)


def strongly_typed(module: ModuleType) -> int:
    """Flags of a network in which every tensor has the type that the ONNX file says: 10.x must be asked for it."""
    kind = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if kind is None else 1 << int(kind)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
