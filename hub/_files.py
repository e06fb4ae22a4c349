"""Hashing models, and publishing results by rename."""

import filecmp
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hub.spec import OutputExists, OutputNotWritable, Receipt, StoreError, UsageError

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """Hash one file; agrees with `sha256sum`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(path: Path) -> list[Path]:
    """List the file itself, or every file below a folder, in a fixed order."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def sha256_model(path: Path, files: Iterable[Path] = ()) -> str:
    """Hash a model: a single file by its bytes, several by their names and hashes.

    Args:
        path: The model's own path.
        files: Every file that belongs to it (external data); those at `path` when empty.
    """
    path = path.absolute()
    every = sorted({file.absolute() for file in files}) or files_of(path)
    if every == [path]:
        return sha256_file(path)
    root = path if path.is_dir() else path.parent
    lines = (f"{os.path.relpath(file, root)} {sha256_file(file)}\n" for file in every)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def copy_model(path: Path, files: Iterable[str], folder: Path) -> Path:
    """Copy a model with all its files, so that nobody can spoil the original; returns the copy's path.

    Files outside the model's own folder (a builder's weights) are named by absolute paths and stay where they are.

    Raises:
        StoreError: The file system refused.
    """
    try:
        for file, place in _places(path, files, folder):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)
    except OSError as error:
        raise StoreError(f"could not copy {path}: {error}", hint="free disk space") from error
    return folder / path.name


def is_copy_of(path: Path, files: Iterable[str], folder: Path) -> bool:
    """Whether a model that `copy_model` put into a folder still holds the original's bytes."""
    pairs = _places(path, files, folder)
    return all(place.is_file() and filecmp.cmp(file, place, shallow=False) for file, place in pairs)


def _places(path: Path, files: Iterable[str], folder: Path) -> list[tuple[Path, Path]]:
    """Each file of a model with its place in the copy; readers may name the files by their resolved paths."""
    roots = (path.absolute().parent, path.resolve().parent)
    places = {folder / file.relative_to(roots[0]): file for file in files_of(path.absolute())}
    for file in (Path(name).absolute() for name in files):
        root = next((root for root in roots if file.is_relative_to(root)), None)
        if root:
            places.setdefault(folder / file.relative_to(root), file)
    return [(file, place) for place, file in sorted(places.items())]


def check_output(path: Path, *, force: bool, inputs: Iterable[str] = ()) -> None:
    """Refuse an output path before any work is done.

    Args:
        path: Where the result is to go.
        force: Whether what is there is replaced.
        inputs: Files and folders that the run reads, and must not replace; empty strings are none.

    Raises:
        OutputExists: Something is there and `force` is off.
        OutputNotWritable: It is a folder, or its parent takes no files.
        UsageError: It is one of the inputs, or its receipt would be.
    """
    receipt = receipt_path(path)
    try:
        _check_place(path, receipt, force=force)
        here = [place for place in (path, receipt) if place.exists()]
        same = [
            (place, name) for place in here for name in inputs if name and Path(name).exists() and place.samefile(name)
        ]
        _probe(next(folder for folder in path.absolute().parents if folder.exists()))
    except OSError as error:
        hint = "name a path in a folder you can write to: -o PATH"
        raise OutputNotWritable(f"{path} cannot be written: {error.strerror}", hint=hint) from error
    if same:
        place, name = same[0]
        what = "the output" if place == path else f"the receipt of {path},"
        raise UsageError(f"{what} {place} is the input {name}", hint="name another path: -o PATH")


def _check_place(path: Path, receipt: Path, *, force: bool) -> None:
    if path.is_dir():
        raise OutputNotWritable(f"the output path {path} is a folder", hint=f"name a file in it: -o {path / 'model'}")
    if path.exists() and not force:
        raise OutputExists(f"{path} exists", hint="replace it with --force, or name another path with -o")
    if receipt.is_dir():
        raise OutputNotWritable(f"the receipt's path {receipt} is a folder", hint="name another path: -o PATH")
    if receipt.exists() and not force and b'"receipt_version"' not in _first_bytes(receipt):
        raise OutputExists(f"{receipt} exists and is no receipt", hint="move it away, or name another path with -o")


def _probe(folder: Path) -> None:
    """Write into a folder, and leave nothing: permissions alone do not tell (root, read-only and virtual systems)."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".hub-"):
        pass


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def receipt_path(artifact: Path) -> Path:
    """Where an artifact's receipt lies."""
    return artifact.parent / f"{artifact.name}.hub.json"


def check_side_files(side: Iterable[Path], destination: Path, *, force: bool, inputs: Iterable[str] = ()) -> None:
    """Refuse to publish side files over anything else than an earlier result.

    Args:
        side: The files, named as they will be.
        destination: The artifact's path; the files go beside it.
        force: Whether what is there is replaced.
        inputs: Files that the run reads, and must not replace.

    Raises:
        OutputExists: Something is there and `force` is off.
        OutputNotWritable: A folder is there.
        UsageError: It is one of the inputs.
    """
    for place in (destination.with_name(file.name) for file in side):
        if any(Path(name).exists() and place.exists() and place.samefile(name) for name in inputs if name):
            raise UsageError(f"{place} is read by this run and would be replaced", hint="name another path: -o PATH")
        if place.is_dir():
            message = f"{place} is a folder, and a file of that name goes with {destination.name}"
            raise OutputNotWritable(message, hint="name another path: -o PATH")
        if place.exists() and not force:
            hint = "replace it with --force, or name another path with -o"
            raise OutputExists(f"{place} exists, and goes with {destination.name}", hint=hint)


def encode_receipt(receipt: Receipt) -> bytes:
    """The receipt as JSON for people and machines."""
    return msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n"


def with_digest(receipt: Receipt) -> Receipt:
    """A receipt with what tells whether its file was edited later."""
    said = msgspec.json.decode(msgspec.json.encode(receipt), type=dict[str, Any])
    return msgspec.structs.replace(receipt, digest=receipt_digest(said))


def receipt_digest(said: Mapping[str, Any]) -> str:
    """Hash what a receipt says, however it is laid out; its digest itself is no part of that."""
    rest = {name: value for name, value in said.items() if name != "digest"}
    return hashlib.sha256(msgspec.json.encode(rest, order="deterministic")).hexdigest()


def publish(artifact: Path, receipt: bytes, destination: Path, side: Sequence[Path] = ()) -> None:
    """Put a finished artifact, its side files and its receipt at their places, each by one rename; the artifact last.

    Whoever sees the artifact therefore sees the rest too. An artifact that was there before is replaced at once.

    Raises:
        StoreError: The file system refused.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".hub-") as scratch:
            places = {Path(scratch) / file.name: destination.with_name(file.name) for file in side}
            for staged, file in zip(places, side, strict=True):
                _copy(file, staged)
            main, note = Path(scratch) / destination.name, Path(scratch) / "receipt"
            _copy(artifact, main)
            note.write_bytes(receipt)
            for staged, place in (places | {note: receipt_path(destination), main: destination}).items():
                staged.replace(place)
    except OSError as error:
        raise StoreError(f"could not write {destination}: {error}", hint="free space, or name another path") from error


def _copy(source: Path, destination: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, destination)
    else:
        shutil.copy2(source, destination)
