"""What a pickle would call for, told from its bytes without running it."""

from __future__ import annotations

import pickletools
import re
from typing import IO

# torch.save before the zip format: a pickle of the number 0x1950a86a20f9469cfc6c (torch/serialization.py), then one
# each of the protocol version, the machine and the object.
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
LEGACY_PICKLES = 4
# What a state dict is made of, as `torch.load(weights_only=True)` allows it.
_WEIGHT_GLOBALS = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_\w+|torch\.\w*Storage|torch\.storage\.\w*Storage"
    r"|torch\.Size|torch\.device|torch\.(bfloat16|bool|u?int\d+|float\d+\w*)|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.Tensor",
)


def is_weight_global(name: str) -> bool:
    """Whether tensors and containers of tensors need that name when they are unpickled."""
    return bool(_WEIGHT_GLOBALS.fullmatch(name))


def pickle_globals(stream: IO[bytes]) -> set[str]:
    """List the importable names that a pickle would call for, without running it.

    Args:
        stream: Positioned at the pickle's first byte; left after its last.

    Returns:
        Dotted names; `?` for one that is computed inside the pickle.

    Raises:
        ValueError: Not a pickle, or a truncated one.
    """
    found: set[str] = set()
    strings: list[str] = []
    memo: dict[int, str] = {}
    for code, argument, _ in pickletools.genops(stream):
        if code.name == "GLOBAL":
            found.add(str(argument).replace(" ", "."))
        elif code.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]) if len(strings) > 1 else "?")
        elif code.name in {"INST", "EXT1", "EXT2", "EXT4"}:
            found.add(str(argument).replace(" ", "."))
        elif code.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else "?"
        elif code.name in {"BINPUT", "LONG_BINPUT"}:
            memo[int(str(argument))] = strings[-1] if strings else "?"
        elif code.name in {"BINGET", "LONG_BINGET"}:
            strings.append(memo.get(int(str(argument)), "?"))
        elif isinstance(argument, str) and code.name.endswith("UNICODE"):
            strings.append(argument)
    return found
