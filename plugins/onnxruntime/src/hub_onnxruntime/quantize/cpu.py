"""What the processor does with 8-bit integers, read from the operating system: no timing, so that it is repeatable."""

from __future__ import annotations

import platform

from hub.spec import Processor, processor
from hub_onnxquant.qdq import Signedness

_ARM = frozenset({"aarch64", "arm64"})


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
