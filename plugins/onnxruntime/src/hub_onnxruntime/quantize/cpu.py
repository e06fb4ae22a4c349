"""What the processor does with 8-bit integers, read from the operating system: no timing, so that it is repeatable."""

from __future__ import annotations

import platform
from enum import StrEnum

from hub.spec import Processor, processor

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


def best_signedness(machine: str, found: Processor) -> Signedness:
    """Returns the exact form that is fastest.

    Args:
        machine: As `platform.machine()` says.
        found: The processor; where its features cannot be read, what is exact everywhere is taken.
    """
    if machine.lower() in _ARM:  # its dot products are signed, and exact
        return Signedness.S8S8
    return Signedness.U8S8 if found.has_integer_dot else Signedness.U8U8


def this_cpu() -> tuple[Signedness, str]:
    """Returns the form for this machine, and its processor in words."""
    return best_signedness(platform.machine(), processor()), str(processor())
