"""What is kept between runs for one GPU: kernels that were finished on it, timings of its builder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hub.spec import cache_root
from hub_tensorrt.cuda import Gpu
from hub_tensorrt.libraries import Library


def device_cache(what: str, library: Library, version: str, gpu: Gpu) -> Path:
    """A file by library, version, GPU, capability and driver: for any other of these, what is in it is wrong."""
    name = gpu.name.lower().replace(" ", "-")
    return cache_root() / what / f"{library.module}-{version}-{name}-sm{gpu.capability}-cuda{gpu.driver}.bin"


def keep(file: Path, content: bytes) -> None:
    """Replace such a file whole, or leave it where the disk refuses: it only saves time."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(file)
