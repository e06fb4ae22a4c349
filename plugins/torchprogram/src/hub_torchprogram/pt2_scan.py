"""What loading a `.pt2` would execute, told from its bytes: torch.export.load itself unpickles without restriction.

torch 2.13, torch/export/pt2_archive/_package.py: weights and constants marked `use_pickle` go through
`torch.load(weights_only=False)`, sample inputs fall back to that, opaque constants go through `pickle.loads`, and
AOTInductor members are native code.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hub_torchprogram.pickles import LEGACY_MAGIC, LEGACY_PICKLES, is_weight_global, pickle_globals

if TYPE_CHECKING:
    from collections.abc import Iterator

# Calls that a graph may hold: operators, and arithmetic on sizes.
_TARGET = re.compile(r"torch\.ops\.[\w.]+|_operator\.\w+|math\.\w+|torch\.sym_\w+")
_CODE_MEMBER = re.compile(r"data/aotinductor/.*|data/constants/(custom_obj|opaque_obj)_.*|.*\.(so|py|dll)")
_SAVED_MEMBER = re.compile(r"(data/(weights|constants|sample_inputs)/.*|serialized_\w+)\.pt")


def code_in_pt2(path: Path) -> tuple[str, ...]:
    """What would be executed by loading a `.pt2` file; nothing for a plain one.

    Raises:
        zipfile.BadZipFile: The file is damaged.
        ValueError: One of its JSON members is.
    """
    with zipfile.ZipFile(path) as archive:
        return tuple(dict.fromkeys(_findings(archive)))


def _findings(archive: zipfile.ZipFile) -> Iterator[str]:
    pickled: set[str] = set()
    members = {_inner(info.filename): info for info in archive.infolist()}
    for name, info in members.items():
        if _CODE_MEMBER.fullmatch(name):
            yield name
        elif name.endswith("_config.json"):
            entries = json.loads(archive.read(info)).get("config", {}).values()
            paths = [entry["path_name"] for entry in entries if entry.get("use_pickle")]
            pickled |= {f"{PurePosixPath(name).parent}/{path}" for path in paths}
        elif name.endswith(".json"):
            yield from _strange_targets(json.loads(archive.read(info)))
    for name, info in members.items():
        if name in pickled or _SAVED_MEMBER.fullmatch(name):
            yield from (f"{found} in {name}" for found in saved_globals(archive.read(info)))


def _inner(name: str) -> str:
    # The new layout puts all members below one root folder; the one before it has none.
    parts = PurePosixPath(name).parts
    return "/".join(parts[1:] if len(parts) > 1 and not name.startswith("extra_files/") else parts)


def _strange_targets(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        target = value.get("target")
        if isinstance(target, str) and "inputs" in value and not _TARGET.fullmatch(target):
            yield target
        for item in value.values():
            yield from _strange_targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strange_targets(item)


def saved_globals(data: bytes) -> list[str]:
    """Names that the bytes of a `torch.save` would call for, besides those that tensors need."""
    if not data:
        return []
    try:
        found = set(_zip_globals(data)) if data.startswith(b"PK") else _legacy_globals(data)
    except (ValueError, zipfile.BadZipFile, NotImplementedError):
        return ["something unreadable"]
    return sorted(name for name in found if not is_weight_global(name))


def _zip_globals(data: bytes) -> Iterator[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".pkl"):
                with archive.open(info) as member:
                    yield from pickle_globals(member)
            elif "/code/" in info.filename:
                yield "TorchScript code"


def _legacy_globals(data: bytes) -> set[str]:
    stream = io.BytesIO(data)
    count = LEGACY_PICKLES if data.startswith(LEGACY_MAGIC) else 1
    return set().union(*(pickle_globals(stream) for _ in range(count)))
