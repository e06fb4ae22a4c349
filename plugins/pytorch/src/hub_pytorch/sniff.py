"""What a file is, told from its bytes alone: nothing here imports torch or runs a pickle."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

from hub.spec import Identification
from hub_torchprogram import LEGACY_MAGIC, LEGACY_PICKLES, is_weight_global, pickle_globals

SUFFIXES = (".pt2", ".pt", ".pth", ".jit", ".ts", ".torchscript")
BUILDER_MAGIC = b'{"builder":"'
SOURCE_MAGIC = b'"""The PyTorch source of a network, written by hub.'


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
            # torch's writers put everything below one root folder; members of the root are what tells the kinds apart.
            names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])): name for name in archive.namelist()}
            if "serialized_exported_program.json" in archive.namelist() or (
                archive.read(names["archive_format"]).strip() == b"pt2"
                if "archive_format" in names
                else any(name.startswith("models/") and name.endswith(".json") for name in names)
            ):
                return Identification(format="pytorch", detail="exported program")
            if "constants.pkl" in names and any(name.startswith("code/") for name in names):
                return Identification(format="pytorch", form="torchscript", detail="TorchScript archive")
            if "data.pkl" in names:
                with archive.open(names["data.pkl"]) as member:
                    return _pickle_verdict(pickle_globals(member))
            return None
    except (zipfile.BadZipFile, EOFError, NotImplementedError):
        truncated = Identification(format="pytorch", detail="zip file, truncated or damaged")
        return truncated if path.suffix.lower() in SUFFIXES else None


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
