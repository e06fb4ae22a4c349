"""What a file is, told from its bytes alone: nothing here imports torch or runs a pickle."""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from hub.spec import Identification

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES = (".pt2", ".pt", ".pth", ".jit", ".ts", ".torchscript")
BUILDER_MAGIC = b'{"builder":"'
SOURCE_MAGIC = b'"""The PyTorch source of a network, written by hub.'

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


def identify(path: Path, header: bytes) -> Identification | None:
    """Recognise a PyTorch file.

    Args:
        path: The file.
        header: Its first bytes.

    Returns:
        The form: plain for `.pt2`, `torchscript`, `builder` (a reference file or a source that hub wrote), `weights`
        (a state dict or safetensors: no model by itself), `pickle` (an object that only running its pickle would
        rebuild); None when it is none of these.
    """
    if header.startswith(b"PK\x03\x04"):
        return _identify_zip(path)
    if header.startswith(SOURCE_MAGIC):
        return Identification(format="pytorch", form="builder", detail="PyTorch source that hub wrote")
    if header.startswith(BUILDER_MAGIC):
        return Identification(format="pytorch", form="builder", detail="reference to a builder function")
    if re.match(rb"\x80[\x02-\x05]", header):
        return _identify_pickle(path, legacy=header.startswith(LEGACY_MAGIC))
    if re.match(rb".{6}\x00\x00\{\"", header, re.DOTALL):
        return Identification(format="pytorch", form="weights", detail="safetensors weights")
    return None


def _identify_zip(path: Path) -> Identification | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return _identify_members(archive)
    except (zipfile.BadZipFile, EOFError, NotImplementedError):
        truncated = Identification(format="pytorch", detail="zip file, truncated or damaged")
        return truncated if path.suffix.lower() in SUFFIXES else None


def _identify_members(archive: zipfile.ZipFile) -> Identification | None:
    # torch's writers put everything below one root folder; members of the root are what tells the kinds apart.
    names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])): name for name in archive.namelist()}
    if "serialized_exported_program.json" in archive.namelist() or _is_pt2(archive, names):
        return Identification(format="pytorch", detail="exported program")
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return Identification(format="pytorch", form="torchscript", detail="TorchScript archive")
    if "data.pkl" in names:
        with archive.open(names["data.pkl"]) as member:
            return _pickle_verdict(pickle_globals(member))
    return None


def _is_pt2(archive: zipfile.ZipFile, names: dict[str, str]) -> bool:
    if "archive_format" in names:
        return archive.read(names["archive_format"]).strip() == b"pt2"
    return any(name.startswith("models/") and name.endswith(".json") for name in names)


def _identify_pickle(path: Path, *, legacy: bool) -> Identification:
    with path.open("rb") as file:
        try:
            for _ in range(LEGACY_PICKLES - 1 if legacy else 0):
                pickle_globals(file)
            return _pickle_verdict(pickle_globals(file))
        except ValueError:  # pickletools: not a pickle after all, or truncated
            return Identification(format="pytorch", form="pickle", detail="a pickle, damaged or truncated")


def _pickle_verdict(found: set[str]) -> Identification:
    strange = sorted(name for name in found if not is_weight_global(name))
    if not strange:
        return Identification(format="pytorch", form="weights", detail="state dict")
    listed = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")  # noqa: PLR2004
    return Identification(format="pytorch", form="pickle", detail=f"pickled object that needs {listed}")


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
    return set(_globals_of(stream))


def _globals_of(stream: IO[bytes]) -> Iterator[str]:
    strings: list[str] = []
    memo: dict[int, str] = {}
    for code, argument, _ in pickletools.genops(stream):
        if code.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif code.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:]) if len(strings) > 1 else "?"
        elif code.name in {"INST", "EXT1", "EXT2", "EXT4"}:
            yield str(argument).replace(" ", ".")
        elif code.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else "?"
        elif code.name in {"BINPUT", "LONG_BINPUT"}:
            memo[int(str(argument))] = strings[-1] if strings else "?"
        elif code.name in {"BINGET", "LONG_BINGET"}:
            strings.append(memo.get(int(str(argument)), "?"))
        elif isinstance(argument, str) and code.name.endswith("UNICODE"):
            strings.append(argument)
