"""From a path to a format, by header bytes; nothing is executed."""

import contextlib
from pathlib import Path

from hub._plugins import Registry
from hub._request import did_you_mean
from hub.spec import Identification, ModelNotFound, ModelUnreadable

HEADER_BYTES = 1 << 16


def read_header(path: Path) -> bytes:
    """Read the first 64 KiB of a file; empty for a folder.

    Raises:
        ModelNotFound: There is nothing at the path.
        ModelUnreadable: It cannot be read, or is empty.
    """
    if not _exists(path):
        raise ModelNotFound(f"there is no file or folder {path}", hint=_near(path))
    if path.is_dir():
        return b""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        raise ModelUnreadable(f"{path} cannot be read: {error}", hint=f"check its permissions: ls -l {path}") from error
    if not header:
        raise ModelUnreadable(f"{path} is empty (0 bytes)", hint="export or download the model again")
    return header


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def identify(path: Path, registry: Registry) -> Identification:
    """Find out what a file or folder is.

    Raises:
        ModelNotFound: There is nothing at the path.
        ModelUnreadable: No plugin recognises it, or two disagree.
        ModelRefused: It is code that would run on loading (from the plugin that recognised it).
        PluginBroken: No plugin recognises it, and one does not load.
    """
    header = read_header(path)
    if impostor := _impostor(path, header):
        raise impostor
    found = registry.identify(path, header)
    if len({item.format for item in found}) > 1:
        names = ", ".join(sorted(item.format for item in found))
        raise ModelUnreadable(f"{path} is claimed as {names}", hint="uninstall one of the plugins: `hub plugins`")
    if found:
        return found[0]
    raise _unknown(path, registry, header)


def _near(path: Path) -> str:
    """What a mistyped name may have meant, else where to look."""
    folder = next(folder for folder in path.parents if folder.is_dir())
    with contextlib.suppress(OSError):
        near = did_you_mean(path.name, [entry.name for entry in folder.iterdir()])
        if folder == path.parent and near.startswith("did you mean"):
            return f"{near} (in {folder}/)"
    return f"look around: ls {folder}"


_IMPOSTORS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself", "fetch it: git lfs pull"),
    (b"<!doctype html", "is a web page, not a model", "download the file itself, not the page that offers it"),
    (b"<html", "is a web page, not a model", "download the file itself, not the page that offers it"),
    (b"\x1f\x8b", "is packed with gzip", "unpack it: tar -xzf for .tar.gz and .tgz, else gunzip"),
    (b"7z\xbc\xaf", "is packed with 7z", "unpack it, and give what is inside"),
)
"""Beginnings of files that come in the place of a model: what they are, and what to do."""


def _impostor(path: Path, header: bytes) -> ModelUnreadable | None:
    start = header[:64].lstrip().lower()
    found = ((what, mend) for beginning, what, mend in _IMPOSTORS if start.startswith(beginning))
    return next((ModelUnreadable(f"{path} {what}", hint=mend) for what, mend in found), None)


_DATA_SUFFIXES = {".npy", ".npz"}


def _unknown(path: Path, registry: Registry, header: bytes) -> ModelUnreadable:
    kind = "folder" if path.is_dir() else "file"
    for name, item in registry.formats.items():
        if path.suffix in item.side_suffixes:
            model = path.with_suffix(item.suffixes[0])
            there = f"give that: {model}" if model.exists() else f"{model.name} is not beside it: bring both"
            return ModelUnreadable(f"{path} is a side file of a model in {name}, not the model itself", hint=there)
    claims = [name for name, item in registry.formats.items() if path.suffix in item.suffixes]
    if not claims:
        registry.check_broken(f"the {kind} {path} is no model that a loaded plugin reads")
    if claims:
        begins = f"; it begins with {header[:16]!r}" if header else ""
        message = f"the {kind} {path} is named like a {claims[0]} model and is none{begins}"
        return ModelUnreadable(message, hint="export or download it again")
    if path.suffix in _DATA_SUFFIXES:
        hint = "name the model first, then `--calibration` or `--test` with the data (`--data` for run and verify)"
        return ModelUnreadable(f"{path} holds arrays: it is data and no model", hint=hint)
    if header.startswith(b"PK\x03\x04"):
        return ModelUnreadable(f"{path} is a zip archive and no model", hint="unpack it, and give what is inside")
    known = ", ".join(registry.formats) or "nothing: no plugin is installed"
    return ModelUnreadable(
        f"the {kind} {path} is no model that an installed plugin reads; they read {known}",
        hint="`hub plugins` shows what is installed",
    )
