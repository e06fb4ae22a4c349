"""The processor: what plugins choose kernels and recipes by, and what a measured time belongs to."""

import functools
import platform
from pathlib import Path

import msgspec

_INTEGER_DOT = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm")
_WORTH_SAYING = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")
_CPUINFO = Path("/proc/cpuinfo")


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """A CPU.

    Attributes:
        name: As the system calls it.
        features: Instruction set extensions by the names that Linux gives them (`avx2`, `avx512_vnni`, `asimddp`);
            empty where the system does not tell.
    """

    name: str
    features: frozenset[str]

    @property
    def has_integer_dot(self) -> bool | None:
        """Whether it multiplies int8 and adds up in int32 in one instruction (VNNI, dot product); None if unknown.

        Without it, x86 kernels add pairs of products in int16, which saturate when weights use all 8 bits.
        """
        return any(name in self.features for name in _INTEGER_DOT) if self.features else None

    def __str__(self) -> str:
        known = [name for name in _WORTH_SAYING if name in self.features]
        dot = {True: "", False: "no VNNI", None: "instruction sets unknown"}[self.has_integer_dot]
        return f"{self.name} ({', '.join([*known, dot] if dot else known)})"


@functools.cache
def processor() -> Processor:
    """The processor that this process runs on."""
    fields = _cpuinfo()
    words = fields.get("flags") or fields.get("Features") or ""
    name = fields.get("model name") or platform.processor() or platform.machine()
    return Processor(name=name, features=frozenset(words.split()))


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry of Linux's /proc/cpuinfo; empty elsewhere."""
    if not _CPUINFO.exists():
        return {}
    lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}
