"""What the processor does with 8-bit integers, read from the operating system: no timing, so that it is repeatable."""

from __future__ import annotations

import platform
from enum import StrEnum
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
_ARM = frozenset({"aarch64", "arm64"})


class Signedness(StrEnum):
    """Element types of activations and weights.

    Measured in ONNX Runtime 1.32's matrix kernels (MLAS), extremes in, against exact sums: without VNNI u8s8 adds pairs
    of products in 16 bits and saturates (0.51 of the right value); u8u8 is exact and takes 1.0 to 1.3 of its time; s8s8
    is exact and takes 4 to 18 times as long. Depthwise kernels add in 32 bits for every signedness.
    """

    U8S8 = "u8s8"
    U8U8 = "u8u8"
    S8S8 = "s8s8"


def flags_in(text: str) -> frozenset[str]:
    """Returns the features of the first processor in the text of `/proc/cpuinfo`."""
    lines = (line.partition(":") for line in text.splitlines())
    return next(
        (frozenset(value.split()) for key, _, value in lines if key.strip() in ("flags", "Features")), frozenset()
    )


def best_signedness(machine: str, flags: frozenset[str]) -> Signedness:
    """Returns the exact form that is fastest.

    Args:
        machine: As `platform.machine()` says.
        flags: Features of the processor; empty where they cannot be read, then what is exact everywhere is taken.
    """
    if machine.lower() in _ARM:  # its dot products are signed, and exact
        return Signedness.S8S8
    return Signedness.U8S8 if flags & _DOT_PRODUCTS else Signedness.U8U8


@cache
def this_cpu() -> tuple[Signedness, str]:
    """Returns the form for this machine, and the reason in a few words."""
    flags = flags_in(CPUINFO.read_text()) if CPUINFO.is_file() else frozenset()
    machine = platform.machine()
    found = sorted(flags & _DOT_PRODUCTS)
    seen = f"with {', '.join(found)}" if found else ("without VNNI" if flags else "of unknown features")
    return best_signedness(machine, flags), f"{machine} processor {seen}"
